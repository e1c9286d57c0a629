"""The order of prompts: a seeded permutation an epoch. Its whole state is (seed, epoch, position)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mindrlhf_lite.errors import UserError


@dataclass(frozen=True)
class SamplerState:
    """Example: SamplerState(seed=0, epoch=1, position=128): 128 prompts of the second epoch were taken."""

    seed: int
    epoch: int
    position: int


class PromptSampler:
    """Indices into a data set of `num_prompts`, without end; a batch may straddle two epochs."""

    def __init__(self, num_prompts: int, seed: int):
        if num_prompts < 1:
            raise UserError(f"num_prompts={num_prompts}: must be positive")
        self.num_prompts = num_prompts
        self.restore(SamplerState(seed, 0, 0))

    @property
    def state(self) -> SamplerState:
        return self._state

    @property
    def epochs(self) -> float:
        """How often all prompts were taken, with the fraction of the epoch under way."""
        return float(self._state.epoch + self._state.position / self.num_prompts)

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self._state)

    def restore_from(self, saved: Mapping[str, Any]) -> None:
        """Raises UserError where it is not such a state."""
        if "levels" in saved:
            raise UserError("data_config.curriculum: the checkpoint is of a run with a curriculum")
        self.restore(SamplerState(**saved))

    def restore(self, state: SamplerState) -> None:
        """Continues exactly after what was taken when `state` was read."""
        if not 0 <= state.position <= self.num_prompts:
            raise UserError(
                f"position {state.position} does not fit {self.num_prompts} prompts: the data file is not the "
                "one of the checkpoint"
            )
        self._state = state
        self._order = self._permutation(state.epoch)

    def take(self, count: int) -> list[int]:
        """The next `count` indices."""
        taken: list[int] = []
        while len(taken) < count:
            seed, epoch, position = self._state.seed, self._state.epoch, self._state.position
            if position == self.num_prompts:
                self.restore(SamplerState(seed, epoch + 1, 0))
                continue
            part = self._order[position : position + count - len(taken)]
            taken += [int(index) for index in part]
            self._state = SamplerState(seed, epoch, position + len(part))
        return taken

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._state.seed, epoch]).permutation(self.num_prompts)
