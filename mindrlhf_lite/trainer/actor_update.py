"""One update of the trained model of a run, in its residency phases."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import numpy as np

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.parallel.mesh import Mesh
from mindrlhf_lite.roles.models import TrainedRoles
from mindrlhf_lite.scoring.batches import MicroBatch
from mindrlhf_lite.swap.phases import phase_of_part


def update_actor(
    config: Config,
    roles: TrainedRoles,
    mesh: Mesh,
    batches: Sequence[MicroBatch],
    lr: float,
    watching: AbstractContextManager[Any] | None = None,
) -> tuple[dict[str, float], list[list[np.ndarray]], float]:
    """Every rank calls it, with its own micro-batches of the update.

    Args: watching: is entered before the gradients, where the weights are in memory, and left after the update.

    Returns: (statistics and logprobs of `TrainedModel.accumulate`; the gradients' global norm, infinite where they
    overflowed and the update was left out).
    """
    optimizer, residency = roles.actor.optimizer, roles.residency
    with ExitStack() as watched:
        with residency.phase("update"):
            watched.enter_context(watching or nullcontext())
            statistics, logprobs = roles.actor.accumulate(batches)
            if mesh.world is not None:
                mesh.world.meet()  # stages end at different times
            if not config.actor_config.optimizer.opt_offload:
                norm = optimizer.step(lr)
        if config.actor_config.optimizer.opt_offload:
            norm = optimizer.step(lr, lambda part: residency.phase(phase_of_part("step", part)))
    return statistics, logprobs, norm
