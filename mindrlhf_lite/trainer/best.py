"""Which evaluation of a run was the best, and whether it has gone on long enough without a better one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mindrlhf_lite.evaluation.accuracy import Evaluation


@dataclass(frozen=True)
class Best:
    """Example: Best(step=40, accuracy=0.715)"""

    step: int  # 0: before training
    accuracy: float


def by_step(evaluations: Mapping[str, Evaluation], last_step: int) -> list[Best]:
    """A run's evaluations ("before", "step_20", ..., "after") in order."""
    steps = {"before": 0, "after": last_step}
    found = [
        Best(steps[name] if name in steps else int(name.removeprefix("step_")), each.accuracy)
        for name, each in evaluations.items()
    ]
    return sorted(found, key=lambda each: each.step)


def best_of(found: list[Best]) -> Best | None:
    """The highest accuracy; of equal ones the earliest."""
    return max(found, key=lambda each: (each.accuracy, -each.step), default=None)


def evaluations_without_gain(found: list[Best], min_delta: float) -> int:
    """How many evaluations there were since the accuracy last exceeded the highest one before by more than
    `min_delta`.

    Example: of accuracies 0.28, 0.70, 0.71, 0.69 with min_delta 0.02: 2.
    """
    highest, waited = float("-inf"), 0
    for each in found:
        waited = 0 if each.accuracy > highest + min_delta else waited + 1
        highest = max(highest, each.accuracy) if waited else each.accuracy
    return waited
