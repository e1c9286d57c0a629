"""Learning-rate schedules: linear warm-up, then constant, linear or cosine decay to `min_lr`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mindrlhf_lite.algorithms.names import GAE
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.sections.actor import LrScheduleConfig


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

    @staticmethod
    def constant(lr: float) -> LearningRate:
        return LearningRate("constant", lr, 0.0, 0, 1)

    def at(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.style == "constant":
            return self.lr
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.decay_steps - self.warmup_steps))
        share = 1.0 - progress if self.style == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.min_lr + (self.lr - self.min_lr) * share


def learning_rate_of(lr: LrScheduleConfig, num_updates: int) -> LearningRate:
    """Args: num_updates: of the run, over which it decays where no decay_steps are set."""
    return LearningRate(lr.lr_decay_style, lr.lr, lr.min_lr, lr.warmup_step, lr.decay_steps or num_updates)


def schedule_of_run(config: Config, steps: int) -> LearningRate:
    """The actor's, which does not learn in the first steps where a critic is warmed up."""
    warm = config.critic_config.warmup_steps if config.rl_config.advantage == GAE else 0
    return learning_rate_of(config.actor_config.lr_schedule, max(1, steps - warm) * config.updates_per_step)
