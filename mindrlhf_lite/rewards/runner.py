"""Runs verifiers over completions with a time limit each, and combines their scores into rewards.

Every verifier has a worker process; a completion on which it exceeds the limit scores Outcome.TIMEOUT and the worker is
replaced. Verifiers are called with one completion at a time, so a failure costs that completion only. Failures are reported once a
batch, by kind; one that fails on GIVE_UP_AFTER completions in a row, of several questions, is broken, and ends the run before rewards are noise.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mindrlhf_lite.rewards.verifiers import find_verifier
from mindrlhf_lite.types import Outcome, Score

_START_SECONDS = 120.0  # importing a user's module may be slow on a busy machine
_FAILURES = (Outcome.ERROR, Outcome.TIMEOUT)
GIVE_UP_AFTER = 20  # failures of a verifier in a row
_ONE_QUESTION = 10  # times as many if they are all of one question


class _Timeout(Exception):
    pass


@dataclass
class _Failures:
    """Of a batch, by kind: how many, the first one's message and gold answer."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    num_scored: int = 0
    in_a_row: int = 0
    golds_in_a_row: set[str] = field(default_factory=set)
    has_succeeded: bool = False  # ever

    @property
    def is_broken(self) -> bool:
        """Many failures in a row, and not all on one question, whose gold answer may be what it cannot handle."""
        return self.in_a_row >= GIVE_UP_AFTER * (1 if len(self.golds_in_a_row) > 1 else _ONE_QUESTION)

    def add(self, problem: str | None, gold: str) -> None:
        self.num_scored += 1
        if problem is None:
            self.in_a_row, self.has_succeeded = 0, True
            self.golds_in_a_row.clear()
            return
        self.in_a_row += 1
        self.golds_in_a_row.add(gold)
        kind = problem.partition(":")[0]
        self.counts[kind] += 1
        self.first.setdefault(kind, f"{problem} (gold {gold!r})")

    def take_report(self, name: str) -> list[str]:
        """A line a kind, and a new batch begins."""
        lines = [f"verifier {name} failed on {count} of {self.num_scored} completions: {self.first[kind]}" for kind, count in self.counts.items()]
        self.counts.clear()
        self.first.clear()
        self.num_scored = 0
        return lines


class VerifierProcess:
    """One verifier in its own process, restarted when it hangs or dies.

    Raises:
        ValueError: the verifier cannot be found or imported.
    """

    def __init__(self, name: str, timeout_s: float):
        self.name, self.timeout_s, self._failures = name, timeout_s, _Failures()
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def _start(self) -> None:
        package_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package_root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
        command = [sys.executable, "-m", "mindrlhf_lite.rewards.worker"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )  # Ctrl-C is for the run
        self._buffer = b""
        self._send((self.name, [os.getcwd()]))
        try:
            problem = self._receive(_START_SECONDS)
        except (_Timeout, OSError):
            problem = f"verifier {self.name!r} did not start within {_START_SECONDS:.0f} s, or died while it was imported"
        if problem is not None:
            self._end()
            raise ValueError(problem)

    def _send(self, value: Any) -> None:
        assert self._process and self._process.stdin
        pickle.dump(value, self._process.stdin)
        self._process.stdin.flush()

    def _receive(self, seconds: float) -> Any:
        assert self._process and self._process.stdout
        stream, deadline = self._process.stdout, time.monotonic() + seconds
        while True:
            try:
                return pickle.loads(self._buffer)
            except (EOFError, pickle.UnpicklingError):
                pass  # incomplete reply
            ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise _Timeout
            data = os.read(stream.fileno(), 1 << 16)
            if not data:
                raise BrokenPipeError(f"the process of verifier {self.name} died")
            self._buffer += data

    def score(self, completion: str, gold: str) -> Score:
        """The verifier's score, or Outcome.TIMEOUT / Outcome.ERROR with value 0.

        Raises:
            ValueError: it is broken.
        """
        score, problem = self._try(completion, gold)
        self._failures.add(problem, gold)
        if problem is not None and score.outcome is Outcome.TIMEOUT and self._failures.counts["timeout"] == 1:  # others may follow, and take as long
            print(f"verifier {self.name}: {problem} (gold {gold!r})", file=sys.stderr, flush=True)
        if self._failures.is_broken:
            longer = ", or raise reward_config.verifier_timeout_s" if score.outcome is Outcome.TIMEOUT else ""
            raise ValueError(
                f"the verifier {self.name} failed on {self._failures.in_a_row} completions in a row, the last time with {problem} (gold {gold!r}); "
                f"rewards would be noise: mend it{longer}"
            )
        return score

    @property
    def has_succeeded(self) -> bool:
        return self._failures.has_succeeded

    def _try(self, completion: str, gold: str) -> tuple[Score, str | None]:
        try:
            if self._process is None:
                self._start()
            self._buffer = b""
            self._send((completion, gold))
            return self._receive(self.timeout_s)
        except _Timeout:
            score, problem = Score(0.0, Outcome.TIMEOUT), f"timeout: no score within {self.timeout_s:g} s"
        except (OSError, ValueError) as error:  # the process died (a crash inside a parser, or the system killed it) or cannot be started again
            score, problem = Score(0.0, Outcome.ERROR), f"exit: {error}" if isinstance(error, ValueError) else f"exit: its process ended{self._exit_code()}"
        self._end()
        return score, problem

    def _exit_code(self) -> str:
        if self._process is None:
            return ""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return ""
        return f" by signal {-code}" if code < 0 else f" with code {code}"

    def report(self) -> None:
        """Says on stderr what failed since the last report."""
        for line in self._failures.take_report(self.name):
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        self.report()
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream:
                    with contextlib.suppress(OSError):  # unflushed bytes to a dead process
                        stream.close()
            self._process = None


class RewardFunction:
    """The weighted sum of verifiers.

    Example: RewardFunction(["accuracy_reward", "format_reward"], [1.0, 0.5], timeout_s=10)
    """

    def __init__(self, names: Sequence[str], weights: Sequence[float], timeout_s: float):
        self.names, self.weights = list(names), list(weights)
        self._processes = [VerifierProcess(name, timeout_s) for name in names]
        self._judge = next((name for name in names if find_verifier(name).judges_answer), names[0])

    def score(self, completions: Sequence[str], golds: Sequence[str]) -> dict[str, list[Score]]:
        """Scores by verifier name, in the order of `completions`. Raises as `VerifierProcess.score`."""
        scores = {process.name: [process.score(text, gold) for text, gold in zip(completions, golds, strict=True)] for process in self._processes}
        for process in self._processes:
            process.report()
        return scores

    def rewards(self, scores: dict[str, list[Score]]) -> np.ndarray:
        """float32 weighted sums."""
        columns = [[score.value for score in scores[name]] for name in self.names]
        return (np.array(columns, np.float64).T @ np.array(self.weights)).astype(np.float32)

    def outcomes(self, scores: dict[str, list[Score]]) -> list[Outcome]:
        """Of the first verifier that judges the answer; ERROR or TIMEOUT where any verifier failed."""
        outcomes = [score.outcome for score in scores[self._judge]]
        for values in scores.values():
            outcomes = [score.outcome if score.outcome in _FAILURES else outcome for score, outcome in zip(values, outcomes, strict=True)]
        return outcomes

    @property
    def has_only_failed(self) -> bool:
        """Whether the verifier that judges the answer never gave a score."""
        return not any(process.has_succeeded for process in self._processes if process.name == self._judge)

    def correct(self, scores: dict[str, list[Score]]) -> list[bool]:
        """Whether the first verifier that judges the answer found it right."""
        return [score.outcome is Outcome.CORRECT for score in scores[self._judge]]

    def close(self) -> None:
        for process in self._processes:
            process.close()
