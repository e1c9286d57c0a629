"""The critic's update: as many passes over the step's completions, in minibatches of the same, as the actor's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.learner.statistics import merged_statistics
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.parallel.shares import share_of_update
from mindrlhf_lite.roles.critic import Critic
from mindrlhf_lite.scoring.sequences import MicroBatcher
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.swap.residency import Residency
from mindrlhf_lite.trainer.learning_rate import LearningRate
from mindrlhf_lite.types import RETURNS, VALUES, TrainSequence


@dataclass
class _Counts:
    """Of this rank's share of a step."""

    statistics: dict[str, float] = field(default_factory=dict)
    num_tokens: int = 0


class CriticUpdate:
    """Every rank calls it, with all sequences of the step in one order, and their values and returns."""

    def __init__(self, config: Config, critic: Critic, residency: Residency, mesh: Mesh, shapes: StreamShapes):
        self._config, self._trained, self._residency, self._mesh = config, critic.trained, residency, mesh
        self._shapes, self._batcher = shapes, MicroBatcher(token_mean, config.rl_config.packing)

    def run(self, sequences: Sequence[TrainSequence], schedule: LearningRate) -> dict[str, float]:
        """All updates of a step. Returns metrics.

        Raises:
            FloatingPointError: loss or gradients are not finite.
        """
        size, counts, norms, rate = self._config.completions_per_update, _Counts(), [], 0.0
        for _ in range(self._config.rl_config.num_iterations):
            for start in range(0, len(sequences), size):
                rate = schedule.at(self._trained.optimizer.updates_done)
                norms.append(self._update_once(sequences[start : start + size], rate, counts))
        ranks = gather_objects(self._mesh.world, counts if self._trained.mesh.reports else _Counts(), _Counts)
        total: dict[str, float] = {}
        for own in ranks:
            total = merged_statistics(total, own.statistics)
        applied = [norm for norm in norms if np.isfinite(norm)]
        return {
            "critic/loss": total.get("loss", 0.0) / len(norms),
            "critic/clipped": total.get("clipped", 0.0) / max(1, sum(own.num_tokens for own in ranks)),
            "critic/grad_norm": float(np.mean(applied or [0.0])),
            "critic/lr": rate,
            **_of_values(sequences),
        }

    def _update_once(self, sequences: Sequence[TrainSequence], rate: float, counts: _Counts) -> float:
        trained, mesh = self._trained, self._trained.mesh
        totals = BatchTotals(sum(each.num_counted for each in sequences), len(sequences), 1)
        mine = share_of_update(len(sequences), self._config.rl_config.num_generations, mesh.share, mesh.dims.shares)
        own = [sequences[index] for index in mine if sequences[index].mask.any()]
        scale = np.float32(trained.optimizer.loss_scale.value)
        batches = [
            replace(batch, loss_scale=scale) for _, batch in self._batcher.cut("critic", own, self._shapes, totals)
        ]
        with self._residency.phase("update_critic"):
            statistics, _ = trained.accumulate(batches)
            if self._mesh.world is not None:
                self._mesh.world.meet()  # stages end at different times
            norm = trained.optimizer.step(rate)
        counts.statistics = merged_statistics(counts.statistics, statistics)
        counts.num_tokens += sum(each.num_counted for each in own)
        return norm


def _of_values(sequences: Sequence[TrainSequence]) -> dict[str, float]:
    """How well the values, from before the update, foretold the returns: 1 fully, 0 no better than their mean."""
    values, returns = (
        np.concatenate([each.of_roles[name][each.mask > 0] for each in sequences]).astype(np.float64)
        for name in (VALUES, RETURNS)
    )
    if not len(returns):
        return {"critic/value_mean": 0.0, "critic/return_mean": 0.0, "critic/explained_variance": 0.0}
    spread = returns.var()
    explained = 1.0 - (returns - values).var() / spread if spread > 0 else 0.0
    return {
        "critic/value_mean": float(values.mean()),
        "critic/return_mean": float(returns.mean()),
        "critic/explained_variance": float(explained),
    }
