"""Frozen roles that follow the actor, as a reference may: every N steps they take a share of its weights (TR-DPO,
arXiv:2404.09656).
"""

from __future__ import annotations

import numpy as np
from mindspore import ops

from mindrlhf_lite.config.roles import RoleSpec
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.roles.models import Roles
from mindrlhf_lite.trainer.phase_clock import PhaseClock


class MovingReference:
    """Every rank calls it."""

    def __init__(self, config: Config, roles: Roles, clock: PhaseClock):
        self._config, self._roles, self._clock = config, roles, clock

    def move_after(self, step: int) -> None:
        """Those that are due after this step."""
        for name in self._roles.followers:
            role = self._config.role(name)
            section = role.section_of(self._config)
            if step % section.ref_model_sync_steps == 0:
                self._move(role, section.ref_model_mixup_alpha)

    def _move(self, role: RoleSpec, share: float) -> None:
        """follower = share * actor + (1 - share) * follower; a copy of the follower lives meanwhile."""
        model = self._roles.scorers[role.name].model
        with self._clock.phase("reshard", role.sync_phase):
            weights, before = model.named_weights(), model.weights_as_numpy() if share < 1 else {}
            self._roles.followers[role.name].run(self._roles.residency.source("actor"))
            for name, values in before.items():
                mixed = share * weights[name].asnumpy().astype(np.float32) + (1.0 - share) * values
                ops.assign(weights[name], model.precision.stored(mixed))
