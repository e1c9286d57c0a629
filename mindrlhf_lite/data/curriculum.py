"""A curriculum: prompts of several levels of difficulty, drawn the more often the more there is to learn from them.

A group teaches as much as its rewards differ: p (1 - p) for completions that pass with probability p, most at one half.
So a level's share of the draws is its 4 p (1 - p), and a little more that all levels have in any case: else one
that was too hard at first would never be measured again. What is drawn is a function of the seed and of the pass
rates of the steps before, which all ranks know alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mindrlhf_lite.data.prompt_sampler import PromptSampler
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.types import Prompt, ScoredGroup

_UNKNOWN = 0.5  # of a level that was never drawn
_STREAM = 0xC0  # keeps the choice of levels apart from the order of their prompts


@dataclass
class Level:
    """`prompts`: their indices; `order`: in which they are taken; `rate`: as measured, newer steps counting more."""

    prompts: list[int]
    order: PromptSampler
    rate: float = _UNKNOWN
    measured: int = 0  # groups


class CurriculumSampler:
    """As `PromptSampler`, with levels.

    Args: levels: of every prompt; memory: what a level's rate keeps of itself where a step measures it anew; floor:
    added to a level's weight, which is at most 1.
    """

    def __init__(self, levels: Sequence[Any], seed: int, memory: float, floor: float):
        by_level: dict[Any, list[int]] = {}
        for index, level in enumerate(levels):
            by_level.setdefault(level, []).append(index)
        self.num_prompts, self._seed, self._memory, self._floor = len(levels), seed, memory, floor
        self.levels = {
            str(level): Level(by_level[level], PromptSampler(len(by_level[level]), seed))
            for level in sorted(by_level, key=_rank)
        }
        self._level_of = {index: name for name, level in self.levels.items() for index in level.prompts}
        self._drawn = 0

    @property
    def epochs(self) -> float:
        """How often as many prompts were taken as there are."""
        return self._drawn / self.num_prompts

    @property
    def shares(self) -> dict[str, float]:
        """Of the draws, by level."""
        weights = {name: 4 * level.rate * (1 - level.rate) + self._floor for name, level in self.levels.items()}
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    def take(self, count: int) -> list[int]:
        """The next `count` indices."""
        names, edges = list(self.levels), np.cumsum(list(self.shares.values()))
        taken = []
        for _ in range(count):
            number = np.random.default_rng([self._seed, _STREAM, self._drawn]).random()
            level = self.levels[names[min(int(np.searchsorted(edges, number, "right")), len(names) - 1)]]
            taken.append(level.prompts[level.order.take(1)[0]])
            self._drawn += 1
        return taken

    def learn(self, groups: Sequence[ScoredGroup]) -> None:
        """The pass rates of a step. A completion that does not count in its group counts in none."""
        found: dict[str, list[float]] = {}
        for scored in groups:
            if scored.kept.any():
                found.setdefault(self._level_of[scored.group.prompt.index], []).append(scored.pass_rate)
        for name, rates in found.items():
            level = self.levels[name]
            memory = self._memory if level.measured else 0.0
            level.rate = memory * level.rate + (1 - memory) * float(np.mean(rates))
            level.measured += len(rates)

    @property
    def metrics(self) -> dict[str, float]:
        shares = self.shares
        rates = {f"curriculum/{name}/pass_rate": level.rate for name, level in self.levels.items()}
        return rates | {f"curriculum/{name}/share": share for name, share in shares.items()}

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        levels = {
            name: {"order": level.order.as_dict(), "rate": level.rate, "measured": level.measured}
            for name, level in self.levels.items()
        }
        return {"drawn": self._drawn, "levels": levels}

    def restore_from(self, saved: Mapping[str, Any]) -> None:
        """Raises UserError where it was made of other levels."""
        levels = saved.get("levels")
        if levels is None or levels.keys() != self.levels.keys():
            raise UserError("data_config.curriculum: the checkpoint is of a run with other levels, or with none")
        self._drawn = saved["drawn"]
        for name, level in self.levels.items():
            level.order.restore_from(levels[name]["order"])
            level.rate, level.measured = levels[name]["rate"], levels[name]["measured"]


Sampler = PromptSampler | CurriculumSampler


def levels_of(prompts: Sequence[Prompt], column: str) -> list[Any]:
    """Raises UserError where a row has no such column, or a value that is no level."""
    found = []
    for prompt in prompts:
        value = prompt.columns.get(column)
        if not isinstance(value, str | int | float):
            raise UserError(
                f"data_config.curriculum.column={column!r}: row {prompt.row} has "
                f"{'the value ' + repr(value)[:60] if column in prompt.columns else 'none'} there; convert the "
                f"data with rlhf_data.py --keep_columns {column}, or with --levels"
            )
        found.append(value)
    return found


def _rank(level: Any) -> tuple[bool, Any]:
    return isinstance(level, str), level
