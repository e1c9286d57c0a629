"""Learning-rate schedules: linear warm-up, then constant, linear or cosine decay to `min_lr`."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LearningRate:
    """`at(step)` for updates counted from 0.

    Example: LearningRate("cosine", lr=1e-3, min_lr=1e-4, warmup_steps=10, decay_steps=100).at(0) == 1e-4
    """

    style: str
    lr: float
    min_lr: float
    warmup_steps: int
    decay_steps: int  # updates from the first to the one that reaches min_lr, warm-up included

    def at(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.style == "constant":
            return self.lr
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.decay_steps - self.warmup_steps))
        share = 1.0 - progress if self.style == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.min_lr + (self.lr - self.min_lr) * share


SCHEDULES = ("constant", "linear", "cosine")
