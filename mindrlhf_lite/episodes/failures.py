"""Failures of environments: counted, named, and the end of the run where there are many."""

from __future__ import annotations

import sys
from collections import Counter, deque

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.rewards.reward_function import GIVE_UP_AFTER, GIVE_UP_SHARE

_WINDOW = 200


class FailureRecord:
    """Args: name: of the environment; ends_at_once: whether one failure ends the run."""

    def __init__(self, name: str, ends_at_once: bool = False):
        self._name, self._ends_at_once = name, ends_at_once
        self._recent: deque[bool] = deque(maxlen=_WINDOW)  # which of the last episodes failed
        self._in_a_row = 0
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, problem: str, row: int) -> None:
        """An episode that is over. Args: problem: empty where nothing failed; row: of its task.

        Raises:
            UserError: the environment is broken.
        """
        self._recent.append(bool(problem))
        self._in_a_row = self._in_a_row + 1 if problem else 0
        if not problem:
            return
        kind = problem.partition(":")[0]
        self._counts[kind] += 1
        self._first.setdefault(kind, f"{problem} (row {row})")
        many = len(self._recent) == _WINDOW and sum(self._recent) > GIVE_UP_SHARE * _WINDOW
        if self._ends_at_once or self._in_a_row >= GIVE_UP_AFTER or many:
            how = f"{self._in_a_row} episodes in a row" if not many else f"{sum(self._recent)} of the last {_WINDOW}"
            how = "an episode" if self._ends_at_once else how
            longer = ", or raise environment_config.step_timeout_s" if kind == "timeout" else ""
            last = f"the last time with {problem} (row {row})"
            raise UserError(f"the environment {self._name} failed on {how}, {last}: mend it{longer}")

    def report(self) -> None:
        """A line a kind, and a new batch begins."""
        for kind, count in self._counts.items():
            say(f"environment {self._name} failed on {count} episode(s): {self._first[kind]}", file=sys.stderr)
        self._counts.clear()
        self._first.clear()
