"""What sets the runs on rows apart: the loss, what goes into an update, what is measured of held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mindrlhf_lite.algorithms.aggregation import token_mean
from mindrlhf_lite.config.stages import StageConfig
from mindrlhf_lite.data.supervised_rows import SupervisedRow
from mindrlhf_lite.evaluation.intervals import wilson_interval
from mindrlhf_lite.learner.loss import Loss
from mindrlhf_lite.learner.supervised_loss import SupervisedLoss
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.parallel.mesh import Mesh
from mindrlhf_lite.roles.models import TrainedRoles
from mindrlhf_lite.scoring.scorer import Scorer
from mindrlhf_lite.scoring.sequences import MicroBatcher, SequenceScoring
from mindrlhf_lite.types import TrainSequence

_TOGETHER = 1024  # sequences that are scored before ranks exchange what they found


class Scoring:
    """Scores of sequences under the trained model as it is, or under a frozen one; every rank calls it."""

    def __init__(self, mesh: Mesh, roles: TrainedRoles, scoring: SequenceScoring):
        self.mesh, self.roles, self._scoring = mesh, roles, scoring

    def run(self, phase: str, scorer: Scorer, sequences: Sequence[TrainSequence]) -> list[np.ndarray]:
        """Of every sequence. Args: phase: of residency, in which the scorer's weights are in memory."""
        found: list[np.ndarray] = []
        with self.roles.residency.phase(phase):
            for start in range(0, len(sequences), _TOGETHER):
                found += self._scoring.score(phase, scorer, sequences[start : start + _TOGETHER])
        return found

    def of_policy(self, sequences: Sequence[TrainSequence]) -> list[np.ndarray]:
        """Logprobs of every sequence's completion tokens under the trained model."""
        return self.run("policy", self.roles.policy, sequences)


class Task(Protocol):
    """Args of its class: config."""

    batcher: MicroBatcher

    def loss(self, model: Decoder) -> Loss:
        """Of the trained model."""

    def begin(
        self, scoring: Scoring, rows: Sequence[SupervisedRow], held_out: Sequence[SupervisedRow], digest: str
    ) -> list[str]:
        """Before the first update, new or resumed. Returns lines for the console. Args: digest: of the rows."""

    def update(self, scoring: Scoring, indices: Sequence[int]) -> tuple[list[TrainSequence], float | None]:
        """(what an update with these training rows trains on; its divergence, where the loss has one)."""

    def metrics(self, statistics: dict[str, float]) -> dict[str, float]:
        """Of all ranks' statistics."""

    def evaluate(self, scoring: Scoring) -> dict[str, float]:
        """Of all held-out rows: eval/loss, and more."""


class SupervisedTask:
    """Every answer token that counts weighs the same."""

    def __init__(self, config: StageConfig):
        self.batcher = MicroBatcher(token_mean, config.rl_config.packing)
        self._rows: Sequence[SupervisedRow] = ()
        self._held_out: list[TrainSequence] = []

    def loss(self, model: Decoder) -> Loss:
        return SupervisedLoss(model)

    def begin(
        self, scoring: Scoring, rows: Sequence[SupervisedRow], held_out: Sequence[SupervisedRow], digest: str
    ) -> list[str]:
        self._rows = rows
        self._held_out = [sequence for row in held_out for sequence in row.sequences]
        return []

    def update(self, scoring: Scoring, indices: Sequence[int]) -> tuple[list[TrainSequence], None]:
        return [sequence for index in indices for sequence in self._rows[index].sequences], None

    def metrics(self, statistics: dict[str, float]) -> dict[str, float]:
        return {"loss/total": statistics["loss"]}

    def evaluate(self, scoring: Scoring) -> dict[str, float]:
        logprobs = scoring.of_policy(self._held_out)
        total = -sum(float((own * each.mask).sum()) for own, each in zip(logprobs, self._held_out, strict=True))
        return {"eval/loss": total / sum(each.num_counted for each in self._held_out)}


def pair_metrics(statistics: dict[str, float]) -> dict[str, float]:
    """Of a loss over pairs."""
    pairs = statistics["pairs"]
    names = ("accuracy", "margin", "chosen", "rejected")
    return {"loss/total": statistics["loss"], **{f"preference/{name}": statistics[name] / pairs for name in names}}


def pair_evaluation(losses: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> dict[str, float]:
    """Of held-out pairs' losses and rewards, [P] each."""
    num_right = int((chosen > rejected).sum())
    low, high = wilson_interval(num_right, len(losses))
    return {
        "eval/loss": float(losses.mean()),
        "eval/accuracy": num_right / len(losses),
        "eval/low": low,
        "eval/high": high,
        "eval/margin": float((chosen - rejected).mean()),
    }
