"""A reference that follows the actor: every N steps it takes a share of its weights (TR-DPO, arXiv:2404.09656)."""

from __future__ import annotations

import numpy as np
from mindspore import ops

from mindrlhf_lite.config.roles import REFERENCE
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.roles.models import Roles
from mindrlhf_lite.trainer.phase_clock import PhaseClock


class MovingReference:
    """Every rank calls it."""

    def __init__(self, config: Config, roles: Roles, clock: PhaseClock):
        self._every, self._share = config.ref_config.ref_model_sync_steps, config.ref_config.ref_model_mixup_alpha
        self._roles, self._clock = roles, clock

    def is_due_after(self, step: int) -> bool:
        return REFERENCE.name in self._roles.followers and step % self._every == 0

    def move(self) -> None:
        """reference = share * actor + (1 - share) * reference; a copy of the reference lives meanwhile."""
        reference, resharder = self._roles.scorers[REFERENCE.name], self._roles.followers[REFERENCE.name]
        with self._clock.phase("reshard", REFERENCE.sync_phase):
            weights = reference.model.named_weights()
            before = reference.model.weights_as_numpy() if self._share < 1 else {}
            resharder.run(self._roles.residency.source("actor"))
            for name, values in before.items():
                mixed = self._share * weights[name].asnumpy().astype(np.float32) + (1.0 - self._share) * values
                ops.assign(weights[name], reference.model.precision.stored(mixed))
