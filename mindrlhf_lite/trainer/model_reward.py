"""The score of a reward model, as a part of completions' rewards beside what verifiers said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mindrlhf_lite.config.roles import REWARD_MODEL
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.scoring.scorer import Scorer
from mindrlhf_lite.scoring.sequences import SequenceScoring
from mindrlhf_lite.trainer.phase_clock import PhaseClock
from mindrlhf_lite.trainer.reward_texts import Reader
from mindrlhf_lite.types import Outcome, Score, ScoredGroup


def normalised(scores: np.ndarray, how: str) -> np.ndarray:
    """Example: normalised(np.array([1.0, 3.0]), "batch") is about [-1, 1]"""
    if how == "none":
        return scores
    return (scores - scores.mean()) / (scores.std() + 1e-6)


class ModelReward:
    """Every rank calls it, with all groups of a draw. Args: read: what the model reads of them, a completion each."""

    def __init__(
        self,
        config: Config,
        model: Scorer,
        scoring: SequenceScoring,
        clock: PhaseClock,
        read: Reader,
    ):
        self._settings, self._model = config.reward_config.reward_model, model
        self._scoring, self._clock, self._read = scoring, clock, read

    def add(self, scored: Sequence[ScoredGroup]) -> list[ScoredGroup]:
        """The groups with weight * score added to verified and rewards, and among their scores."""
        name = REWARD_MODEL.name
        with self._clock.phase(name, name):
            found = self._scoring.score(name, self._model, self._read(scored))
        scores = normalised(np.concatenate(found).astype(np.float64), self._settings.normalise)
        ends = np.cumsum([len(group.rewards) for group in scored])
        return [
            replace(
                group,
                scores={**group.scores, name: [_as_score(value) for value in own]},
                verified=_sum(group.verified, self._settings.weight * own),
                rewards=_sum(group.rewards, self._settings.weight * own),
            )
            for group, own in zip(scored, np.split(scores, ends[:-1]), strict=True)
        ]


def _sum(rewards: np.ndarray, more: np.ndarray) -> np.ndarray:
    return (rewards.astype(np.float64) + more).astype(np.float32)


def _as_score(value: float) -> Score:
    """It says nothing of what is correct; its sign is all that there is."""
    return Score(float(value), Outcome.CORRECT if value > 0 else Outcome.WRONG)
