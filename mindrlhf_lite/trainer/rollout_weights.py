"""The actor's weights in the rollout engine: moved there after every update, and whenever they are missing."""

from __future__ import annotations

from mindrlhf_lite.reshard.executor import Moved
from mindrlhf_lite.roles.models import Roles
from mindrlhf_lite.swap.residency import State
from mindrlhf_lite.trainer.phase_clock import PhaseClock


class RolloutWeights:
    """Every rank calls it. Args: check_interval: reshards between two that are checked bit for bit; 0: the first."""

    def __init__(self, roles: Roles, clock: PhaseClock, check_interval: int):
        self._roles, self._clock, self._check_interval, self._num_moves = roles, clock, check_interval, 0

    def move(self) -> Moved:
        """The actor's weights into the rollout engine's layout."""
        interval = self._check_interval
        is_checked = self._num_moves == 0 or bool(interval and self._num_moves % interval == 0)
        with self._clock.phase("reshard", "reshard"):
            moved = self._roles.move_to_rollout(is_checked)
            self._roles.rollout.weights_changed()
        self._num_moves += 1
        return moved

    def move_if_missing(self) -> None:
        """Where a phase since the last move took the memory of the weights that generate, or there was none yet."""
        residency = self._roles.residency
        if any(residency.state(group) is State.EMPTY for group in residency.phases["generate"].needs):
            self.move()
