"""Supervised training: a trained model learns the completions that it is given, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.scoring.sequences import MicroBatcher
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.trainer.learning_rate import LearningRate
from mindrlhf_lite.types import TrainSequence

AfterStep = Callable[[int, float], None]


class SupervisedTrainer:
    """On one rank.

    Args:
        trained: with `SupervisedLoss`.
        shapes: of the micro-batches.
    """

    def __init__(self, trained: TrainedModel, shapes: StreamShapes, schedule: LearningRate):
        self._trained, self._shapes, self._schedule = trained, shapes, schedule
        self._batcher = MicroBatcher(token_mean, shares_prompts=True)

    def train(self, batches: Iterable[Sequence[TrainSequence]], after_step: AfterStep) -> None:
        """One update a batch. Args: after_step: is told the number of updates made, and the loss a token."""
        for step, sequences in enumerate(batches, 1):
            after_step(step, self.step(sequences))

    def step(self, sequences: Sequence[TrainSequence]) -> float:
        """Returns the loss a token before the update.

        Raises:
            FloatingPointError: loss or gradients are not finite.
        """
        optimizer = self._trained.optimizer
        longest = max(each.completion_length for each in sequences)
        totals = BatchTotals(sum(each.num_counted for each in sequences), len(sequences), longest)
        batches = self._batcher.cut("update", sequences, self._shapes, totals)
        statistics, _ = self._trained.accumulate([batch for _, batch in batches])
        optimizer.step(self._schedule.at(optimizer.updates_done))
        return statistics["loss"]
