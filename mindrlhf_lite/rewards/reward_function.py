"""Completions to rewards: verifiers in a pool of processes, their weighted sum, and what failures count as.

A failure (an exception, a time-out, a dead process, a score out of range) is never rewarded: it scores the worst that
its verifier can give, or leaves its completion out of the group, without an advantage. Failures are reported once a
batch, by kind; a verifier that keeps failing ends the run before rewards are noise.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.rewards.pool import Verdict, VerifierPool
from mindrlhf_lite.rewards.sizes import LARGEST_REWARD, unusable_places
from mindrlhf_lite.rewards.verifiers import Verifier, find_verifier, strictest
from mindrlhf_lite.types import CompletionView, Outcome, Score

FAILURES = (Outcome.ERROR, Outcome.TIMEOUT)
GIVE_UP_AFTER = 20  # failures of a verifier in a row
GIVE_UP_SHARE, _WINDOW = 0.5, 200  # or so large a share of so many scores
_ONE_QUESTION = 10  # times as many if they are all of one question


class Elsewhere(Protocol):
    """A verifier that is no function in a process of the pool. `rewards.judge.Judge` is one."""

    def score(self, pairs: Sequence[tuple[CompletionView, str]], on_result: Callable[[int, Verdict], None]) -> None:
        """Calls on_result(pair's index, verdict) for every completion and its gold answer."""


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
        has_failed = verdict.score is None and not self.is_too_costly(verdict)
        self.recent.append(has_failed)
        if verdict.score is not None:
            self.in_a_row, self.has_succeeded = 0, True
            return
        if has_failed:
            self.in_a_row += 1
            self.failed_golds.append(gold)
        kind = verdict.problem.partition(":")[0]
        self.counts[kind] += 1
        self.first.setdefault(kind, f"{verdict.problem} (gold {gold!r})")
        if verdict.failure is Outcome.TIMEOUT and self.counts[kind] == 1:  # others may follow, and take as long
            say(f"verifier {self.verifier.name}: {verdict.problem} (gold {gold!r})", file=sys.stderr)
        if has_failed and (reason := self._why_broken()):
            longer = f", or raise {self.verifier.limit_setting}" if verdict.failure is Outcome.TIMEOUT else ""
            raise UserError(
                f"the verifier {self.verifier.name} failed on {reason}, the last time with {verdict.problem} "
                f"(gold {gold!r}); rewards would be noise: mend it{longer}"
            )

    def is_too_costly(self, verdict: Verdict) -> bool:
        """Whether a built-in verifier ran out of time or memory: then the completion is to blame, as a wrong answer. A
        policy could end the run with a few such formulas else.
        """
        is_cost = verdict.failure is Outcome.TIMEOUT or verdict.problem.startswith("MemoryError")
        return is_cost and not self.verifier.is_own

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

    Args:
        num_workers: processes that score; 0: one a core.
        judge: the verifier that says what is correct in evaluations; empty: the strictest of them.
        trial: see `VerifierPool`.
        elsewhere: verifiers that run in no process of the pool, by name.

    Example: RewardFunction(["accuracy_reward", "format_reward"], [1.0, 0.5], timeout_s=10)
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[float],
        timeout_s: float,
        num_workers: int = 0,
        judge: str = "",
        trial: tuple[CompletionView, str] | None = None,
        elsewhere: Mapping[str, Elsewhere] | None = None,
    ):
        self.names, self.weights = list(names), list(weights)
        self.judge = judge or strictest(names)
        every = list(dict.fromkeys([*names, self.judge]))
        self._elsewhere = {name: each for name, each in (elsewhere or {}).items() if name in every}
        pooled = [name for name in every if name not in self._elsewhere]
        self._pool = VerifierPool(pooled, timeout_s, num_workers, trial) if pooled else None
        self._try_elsewhere(trial)
        self._records = {name: _Record(find_verifier(name)) for name in every}
        self._first = next((name for name in names if self._records[name].verifier.judges_answer), names[0])

    def score(
        self, completions: Sequence[CompletionView], golds: Sequence[str], group_size: int = 1
    ) -> dict[str, list[Score]]:
        """Scores by verifier name, in the order of `completions`. Args: group_size: so many in a row are of one
        question.

        Raises:
            ValueError: a verifier is broken.
        """
        return self._score(self.names, completions, golds, group_size)

    def judged_correct(
        self, completions: Sequence[CompletionView], golds: Sequence[str], group_size: int = 1
    ) -> list[bool]:
        """Whether `judge` finds them correct. Arguments and errors as of `score`."""
        scores = self._score([self.judge], completions, golds, group_size)[self.judge]
        return [score.outcome is Outcome.CORRECT for score in scores]

    def _score(
        self, names: Sequence[str], completions: Sequence[CompletionView], golds: Sequence[str], group_size: int
    ) -> dict[str, list[Score]]:
        pairs = list(zip(completions, golds, strict=True))
        scores: dict[str, list[Score | None]] = {name: [None] * len(pairs) for name in names}

        def take(name: str, place: int, verdict: Verdict) -> None:
            self._records[name].add(verdict, pairs[place][1])
            failure = Outcome.WRONG if self._records[name].is_too_costly(verdict) else verdict.failure
            scores[name][place] = verdict.score or Score(self._worst(name), failure or Outcome.ERROR)

        def take_from_pool(number: int, verdict: Verdict) -> None:
            index, place = divmod(number, len(pairs))
            take(pooled[index], place, verdict)

        pooled = [name for name in names if name not in self._elsewhere]
        if pooled and self._pool is not None:
            self._pool.score(pairs, take_from_pool, pooled, group_size)
        for name in names:
            if name in self._elsewhere:
                self._elsewhere[name].score(pairs, partial(take, name))
        self._report()
        found = {name: [score for score in of_one if score is not None] for name, of_one in scores.items()}
        assert all(len(of_one) == len(pairs) for of_one in found.values())
        return found

    def _try_elsewhere(self, trial: tuple[CompletionView, str] | None) -> None:
        """Raises UserError: one that is not in the pool fails on the made-up completion."""
        found: list[Verdict] = []
        if trial is None:
            return
        for name, verifier in self._elsewhere.items():
            verifier.score([trial], lambda place, verdict: found.append(verdict))
            if found[-1].score is None:
                raise UserError(f"{name} fails on a made-up completion: {found[-1].problem}")

    def _worst(self, name: str) -> float:
        """The score of a verifier that adds least to the reward."""
        verifier = self._records[name].verifier
        weight = self.weights[self.names.index(name)] if name in self.names else 1.0
        return verifier.minimum if weight >= 0 else verifier.maximum

    def rewards(self, scores: dict[str, list[Score]]) -> np.ndarray:
        """float32 weighted sums.

        Raises:
            UserError: a score, or a sum, is too large to be trained on.
        """
        columns = np.array([[score.value for score in scores[name]] for name in self.names], np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
            sums = columns.T @ np.array(self.weights)
        for place in unusable_places(np.vstack([columns, sums])):
            raise UserError(self._too_large(sums[place], columns[:, place]))
        return sums.astype(np.float32)

    def _too_large(self, reward: float, values: np.ndarray) -> str:
        """Of a completion's reward, by the verifier that adds most."""
        with np.errstate(over="ignore"):
            index = int(np.argmax(np.maximum(np.abs(values * self.weights), np.abs(values))))
        return (
            f"the verifier {self.names[index]} returned {values[index]:g}, weight {self.weights[index]:g} "
            f"(reward_config.verifier_weight): with it a completion's reward is {reward:g}, and rewards above "
            f"{LARGEST_REWARD:g} overflow in training; divide its scores, or lower its weight"
        )

    def outcomes(self, scores: dict[str, list[Score]]) -> list[Outcome]:
        """Of the first verifier that judges the answer; ERROR or TIMEOUT where any verifier failed."""
        outcomes = [score.outcome for score in scores[self._first]]
        for values in scores.values():
            outcomes = [
                score.outcome if score.outcome in FAILURES else outcome
                for score, outcome in zip(values, outcomes, strict=True)
            ]
        return outcomes

    @property
    def has_only_failed(self) -> bool:
        """Whether `judge` never gave a score."""
        return not self._records[self.judge].has_succeeded

    def _report(self) -> None:
        for record in self._records.values():
            for line in record.take_report():
                say(line, file=sys.stderr)

    def close(self) -> None:
        self._report()
        if self._pool is not None:
            self._pool.close()
