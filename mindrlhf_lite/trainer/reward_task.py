"""Reward models: what a run on pairs does for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from mindspore import Tensor

from mindrlhf_lite.algorithms.aggregation import sequence_sum
from mindrlhf_lite.algorithms.preferences import bradley_terry
from mindrlhf_lite.config.stages import StageConfig
from mindrlhf_lite.data.supervised_rows import SupervisedRow
from mindrlhf_lite.learner.loss import Loss
from mindrlhf_lite.learner.preference_loss import RewardLoss
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.scoring.pairs import LastTokenScorer, pack_pairs
from mindrlhf_lite.scoring.sequences import MicroBatcher
from mindrlhf_lite.trainer.stage_task import Scoring, pair_evaluation, pair_metrics
from mindrlhf_lite.types import TrainSequence


class RewardTask:
    """Scores of both answers at their last tokens."""

    def __init__(self, config: StageConfig):
        self._center = config.preference_config.center_rewards
        self.batcher = MicroBatcher(sequence_sum, config.rl_config.packing, pack_pairs)
        self._rows: list[tuple[TrainSequence, ...]] = []
        self._held_out: list[TrainSequence] = []
        self._margins = np.zeros(0, np.float32)
        self._scorer: LastTokenScorer | None = None

    def loss(self, model: Decoder) -> Loss:
        return RewardLoss(model, self._center)

    def begin(
        self, scoring: Scoring, rows: Sequence[SupervisedRow], held_out: Sequence[SupervisedRow], digest: str
    ) -> list[str]:
        self._rows = [
            tuple(replace(each, advantages=np.full_like(each.advantages, row.margin)) for each in row.sequences)
            for row in rows
        ]
        self._held_out = [each for row in held_out for each in row.sequences]
        self._margins = np.array([row.margin for row in held_out], np.float32)
        self._scorer = LastTokenScorer(scoring.roles.actor.model, scoring.roles.actor.layers)
        return []

    def update(self, scoring: Scoring, indices: Sequence[int]) -> tuple[list[TrainSequence], None]:
        return [sequence for index in indices for sequence in self._rows[index]], None

    def metrics(self, statistics: dict[str, float]) -> dict[str, float]:
        return pair_metrics(statistics)

    def evaluate(self, scoring: Scoring) -> dict[str, float]:
        assert self._scorer is not None
        scores = np.concatenate(scoring.run("policy", self._scorer, self._held_out)).reshape(-1, 2)
        chosen, rejected = scores[:, 0].copy(), scores[:, 1].copy()
        losses = bradley_terry(Tensor(chosen), Tensor(rejected), Tensor(self._margins), self._center)
        return pair_evaluation(losses.asnumpy(), chosen, rejected)
