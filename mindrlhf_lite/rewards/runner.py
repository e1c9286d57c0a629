"""Completions to rewards: verifiers in a pool of processes, their weighted sum, and what failures count as.

A failure (an exception, a time-out, a dead process, a score out of range) is never rewarded: it scores the worst that
its verifier can give, or leaves its completion out of the group, without an advantage. Failures are reported once a
batch, by kind; a verifier that keeps failing ends the run before rewards are noise.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.pool import Verdict, VerifierPool
from mindrlhf_lite.rewards.verifiers import Verifier, find_verifier
from mindrlhf_lite.types import CompletionView, Outcome, Score

FAILURES = (Outcome.ERROR, Outcome.TIMEOUT)
GIVE_UP_AFTER = 20  # failures of a verifier in a row
GIVE_UP_SHARE, _WINDOW = 0.5, 200  # or so large a share of so many scores
_ONE_QUESTION = 10  # times as many if they are all of one question


@dataclass
class _Record:
    """How a verifier did: of a batch by kind, how many failed, the first one's message and gold answer; and lately."""

    verifier: Verifier
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    num_scored: int = 0
    in_a_row: int = 0
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=_WINDOW))  # which of the last scores failed
    failed_golds: deque[str] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    has_succeeded: bool = False  # ever

    def add(self, verdict: Verdict, gold: str) -> None:
        """Raises ValueError if the verifier is broken."""
        self.num_scored += 1
        self.recent.append(verdict.score is None)
        if verdict.score is not None:
            self.in_a_row, self.has_succeeded = 0, True
            return
        self.in_a_row += 1
        self.failed_golds.append(gold)
        kind = verdict.problem.partition(":")[0]
        self.counts[kind] += 1
        self.first.setdefault(kind, f"{verdict.problem} (gold {gold!r})")
        if verdict.failure is Outcome.TIMEOUT and self.counts[kind] == 1:  # others may follow, and take as long
            print(f"verifier {self.verifier.name}: {verdict.problem} (gold {gold!r})", file=sys.stderr, flush=True)
        if reason := self._why_broken():
            longer = ", or raise reward_config.verifier_timeout_s" if verdict.failure is Outcome.TIMEOUT else ""
            raise UserError(
                f"the verifier {self.verifier.name} failed on {reason}, the last time with {verdict.problem} "
                f"(gold {gold!r}); rewards would be noise: mend it{longer}"
            )

    def _why_broken(self) -> str:
        """Many failures, and not all on one question, whose gold answer may be what it cannot handle."""
        is_one_question = len(set(list(self.failed_golds)[-self.in_a_row :])) == 1
        if self.in_a_row >= GIVE_UP_AFTER * (_ONE_QUESTION if is_one_question else 1):
            return f"{self.in_a_row} completions in a row"
        if (
            len(self.recent) == _WINDOW
            and sum(self.recent) > GIVE_UP_SHARE * _WINDOW
            and len(set(self.failed_golds)) > 1
        ):
            return f"{sum(self.recent)} of the last {_WINDOW} completions"
        return ""

    def take_report(self) -> list[str]:
        """A line a kind, and a new batch begins."""
        name = self.verifier.name
        lines = [
            f"verifier {name} failed on {count} of {self.num_scored} completions: {self.first[kind]}"
            for kind, count in self.counts.items()
        ]
        self.counts.clear()
        self.first.clear()
        self.num_scored = 0
        return lines


class RewardFunction:
    """The weighted sum of verifiers.

    Args: num_workers: processes that score; 0: one a core.

    Example: RewardFunction(["accuracy_reward", "format_reward"], [1.0, 0.5], timeout_s=10)
    """

    def __init__(self, names: Sequence[str], weights: Sequence[float], timeout_s: float, num_workers: int = 0):
        self.names, self.weights = list(names), list(weights)
        self._pool = VerifierPool(names, timeout_s, num_workers)
        self._records = [_Record(find_verifier(name)) for name in names]
        self._judge = next(
            (name for name, record in zip(names, self._records, strict=True) if record.verifier.judges_answer), names[0]
        )

    def score(self, completions: Sequence[CompletionView], golds: Sequence[str]) -> dict[str, list[Score]]:
        """Scores by verifier name, in the order of `completions`.

        Raises:
            ValueError: a verifier is broken.
        """
        pairs = list(zip(completions, golds, strict=True))
        scores: list[list[Score | None]] = [[None] * len(pairs) for _ in self.names]

        def take(number: int, verdict: Verdict) -> None:
            index, place = divmod(number, len(pairs))
            self._records[index].add(verdict, pairs[place][1])
            scores[index][place] = verdict.score or Score(self._worst(index), verdict.failure or Outcome.ERROR)

        self._pool.score(pairs, take)
        self._report()
        return {
            name: [score for score in of_one if score is not None]
            for name, of_one in zip(self.names, scores, strict=True)
        }

    def _worst(self, index: int) -> float:
        """The score of a verifier that adds least to the reward."""
        verifier = self._records[index].verifier
        return verifier.minimum if self.weights[index] >= 0 else verifier.maximum

    def rewards(self, scores: dict[str, list[Score]]) -> np.ndarray:
        """float32 weighted sums."""
        columns = [[score.value for score in scores[name]] for name in self.names]
        return (np.array(columns, np.float64).T @ np.array(self.weights)).astype(np.float32)

    def outcomes(self, scores: dict[str, list[Score]]) -> list[Outcome]:
        """Of the first verifier that judges the answer; ERROR or TIMEOUT where any verifier failed."""
        outcomes = [score.outcome for score in scores[self._judge]]
        for values in scores.values():
            outcomes = [
                score.outcome if score.outcome in FAILURES else outcome
                for score, outcome in zip(values, outcomes, strict=True)
            ]
        return outcomes

    @property
    def has_only_failed(self) -> bool:
        """Whether the verifier that judges the answer never gave a score."""
        return not any(record.has_succeeded for record in self._records if record.verifier.name == self._judge)

    def correct(self, scores: dict[str, list[Score]]) -> list[bool]:
        """Whether the first verifier that judges the answer found it right."""
        return [score.outcome is Outcome.CORRECT for score in scores[self._judge]]

    def _report(self) -> None:
        for record in self._records:
            for line in record.take_report():
                print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        self._report()
        self._pool.close()
