"""Supervised training: a trained model learns the sequences that it is given, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.parallel.shares import share_of_update
from mindrlhf_lite.scoring.batches import MicroBatch
from mindrlhf_lite.scoring.sequences import MicroBatcher
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.trainer.learning_rate import LearningRate
from mindrlhf_lite.types import TrainSequence

AfterStep = Callable[[int, float], None]
# micro-batches and a learning rate -> (statistics of `TrainedModel.accumulate`, the gradients' global norm)
Update = Callable[[Sequence[MicroBatch], float], tuple[dict[str, float], float]]


@dataclass(frozen=True)
class SupervisedStep:
    """What one update counted on this rank. Example: SupervisedStep({"loss": 1.2, "tokens": 300.0}, 0.7, 1e-5, 300)"""

    statistics: dict[str, float]  # of the loss; none before the last stage
    grad_norm: float  # infinite where gradients overflowed, and the update was left out
    lr: float
    num_tokens: int  # that count, of all ranks
    num_computed: int = 0  # tokens of this rank's streams
    num_padding: int = 0  # of them


class SupervisedTrainer:
    """On one rank, or on every rank of a run.

    Args:
        trained: with a loss over sequences, such as `SupervisedLoss`.
        shapes: of the micro-batches.
        batcher: None: sequences of one prompt share it, and every token weighs the same.
        row: sequences in a row that stay together on a rank: 2 of pairs.
        update: one update with this rank's micro-batches; None: of `trained`, which is always in memory.
    """

    def __init__(
        self,
        trained: TrainedModel,
        shapes: StreamShapes,
        schedule: LearningRate,
        batcher: MicroBatcher | None = None,
        row: int = 1,
        update: Update | None = None,
    ):
        self._trained, self._shapes, self._row = trained, shapes, row
        self.schedule = schedule
        self.batcher = batcher or MicroBatcher(token_mean, shares_prompts=True)
        self._update = update or self._update_alone

    def _update_alone(self, batches: Sequence[MicroBatch], lr: float) -> tuple[dict[str, float], float]:
        statistics, _ = self._trained.accumulate(batches)
        return statistics, self._trained.optimizer.step(lr)

    def train(self, batches: Iterable[Sequence[TrainSequence]], after_step: AfterStep) -> None:
        """One update a batch. Args: after_step: is told the number of updates made, and the loss."""
        for step, sequences in enumerate(batches, 1):
            after_step(step, self.step(sequences).statistics["loss"])

    def step(self, sequences: Sequence[TrainSequence], divergence: float | None = None) -> SupervisedStep:
        """One update. Every rank is given all its sequences, in one order, and takes its data-parallel share.

        Args: divergence: a number that the loss has of the whole update (`MicroBatch.divergence`); None: it has none.

        Raises:
            FloatingPointError: loss or gradients are not finite.
        """
        optimizer, mesh = self._trained.optimizer, self._trained.mesh
        longest = max(each.completion_length for each in sequences)
        totals = BatchTotals(sum(each.num_counted for each in sequences), len(sequences), longest)
        mine = share_of_update(len(sequences), self._row, mesh.share, mesh.dims.shares)
        cut = self.batcher.cut("update", [sequences[index] for index in mine], self._shapes, totals)
        scale = np.float32(optimizer.loss_scale.value)
        batches = [replace(batch, divergence=np.float32(divergence or 0.0), loss_scale=scale) for _, batch in cut]
        lr = self.schedule.at(optimizer.updates_done)
        statistics, norm = self._update(batches, lr)
        computed = sum(len(batch.token_ids) for batch in batches)
        padding = sum(batch.num_padding for batch in batches)
        return SupervisedStep(statistics, norm, lr, totals.num_tokens, computed, padding)
