"""Verifiers in worker processes, several at once, with a time limit for every score.

A worker gets a handful of tasks at a time and answers each as it is done. One that exceeds the limit, or dies, costs
the task that it was at: it is killed with whatever the verifier has started (keeper.py), and its other tasks go to the
others. While workers are stuck, more are started, so that a verifier that hangs on some completions holds
up only those.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.waiting import readable
from mindrlhf_lite.files.wire import BadMessage, from_bytes
from mindrlhf_lite.rewards.verifier_process import ANSWER, Task
from mindrlhf_lite.rewards.verifier_worker import START_SECONDS, VerifierWorker, start_worker
from mindrlhf_lite.rewards.verifiers import find_verifier
from mindrlhf_lite.types import CompletionView, Outcome, Score

MAX_WORKERS = 16  # while others are stuck
_STUCK_SHARE = 0.5  # of the limit; verifiers that merely take their time do not start more processes
_STUCK_SHARE_AFTER_TIMEOUT = 0.1  # in a batch in which one has hung others are soon taken to hang too
_MAX_FAILED_STARTS = 3  # in a row: where processes have started before, one that does not may lack memory for a moment
_BATCH = 16  # tasks that a worker has at most
_STOPPED_SECONDS = 2.0  # a wait that overslept so long was stopped, with all of this process

OnResult = Callable[[int, "Verdict"], None]


@dataclass(frozen=True)
class Verdict:
    """Example: Verdict(Score(1.0, Outcome.CORRECT)); Verdict(None, Outcome.TIMEOUT, "timeout: no score within 10 s")"""

    score: Score | None
    failure: Outcome | None = None  # ERROR or TIMEOUT
    problem: str = ""


class VerifierPool:
    """Worker processes that score completions by verifiers.

    Args:
        names: built-in verifiers, or dotted paths.
        timeout_s: limit of one score.
        num_workers: processes while none is stuck; 0: one a core.
        trial: a completion and its gold answer, which a user's verifiers have to score before anything else; None: they
            are not tried.

    Raises:
        ValueError: a verifier cannot be found or imported, or fails on the trial.
    """

    def __init__(
        self,
        names: Sequence[str],
        timeout_s: float,
        num_workers: int = 0,
        trial: tuple[CompletionView, str] | None = None,
    ):
        self.names, self.timeout_s, self._trial = list(names), timeout_s, trial
        self._takes_group = [find_verifier(name).takes_group for name in names]
        self.num_workers = num_workers or len(os.sched_getaffinity(0))
        self._workers: list[VerifierWorker] = []
        for _ in range(self.num_workers):
            self._start()
        self._has_started, self._failed_starts, self._stuck_share = False, 0, _STUCK_SHARE
        while not all(worker.is_ready for worker in self._workers):
            self._wait(deque(), lambda number, verdict: None)
        self._has_started = True

    def score(
        self,
        pairs: Sequence[tuple[CompletionView, str]],
        on_result: OnResult,
        names: Sequence[str] = (),
        group_size: int = 1,
    ) -> None:
        """Calls on_result(verifier's index * len(pairs) + pair's index, verdict) for every verifier and pair, in the
        order in which they are done.

        What `on_result` raises ends the scoring; tasks that are under way are then given up.

        Args:
            names: of the verifiers that score, in the order of their indices; none: all.
            group_size: so many pairs in a row are of one question.
        """
        waiting: deque[Task] = deque()
        for index, name in enumerate(names or self.names):
            verifier = self.names.index(name)
            size = group_size if self._takes_group[verifier] else 1
            for start in range(0, len(pairs), size):
                completions, golds = zip(*pairs[start : start + size], strict=True)
                first = index * len(pairs) + start
                waiting.append(Task(tuple(range(first, first + len(golds))), verifier, completions, golds))
        self._stuck_share = _STUCK_SHARE
        try:
            while waiting or any(worker.tasks for worker in self._workers):
                self._hand_out(waiting)
                self._wait(waiting, on_result)
        except BaseException:
            self.close()
            raise
        for worker in self._workers[self.num_workers :]:  # those that stood in
            worker.end()
        del self._workers[self.num_workers :]

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def _start(self) -> None:
        self._workers.append(start_worker(self.names, self._trial))

    def _hand_out(self, waiting: deque[Task]) -> None:
        """Tasks to idle workers; more workers where some are stuck."""
        now = time.monotonic()
        stuck = sum(
            bool(worker.tasks) and now - worker.since > self._stuck_share * worker.limit_s(self.timeout_s)
            for worker in self._workers
        )
        wanted = min(self.num_workers + stuck, max(MAX_WORKERS, self.num_workers))
        while waiting and len(self._workers) < wanted:
            self._start()
        for worker in self._workers:
            if worker.is_ready and not worker.tasks and waiting:
                count = max(1, min(_BATCH, len(waiting) // (2 * len(self._workers))))
                worker.tasks.extend(waiting.popleft() for _ in range(count))
                worker.since, worker.deadline = now, now + worker.limit_s(self.timeout_s)
                with contextlib.suppress(OSError):
                    worker.send(list(worker.tasks), list[Task])

    def _readable(self, seconds: float) -> tuple[list[VerifierWorker], float]:
        """Workers that have said something, and as `readable`. Of more open files than select() takes."""
        with selectors.PollSelector() as streams:
            for worker in self._workers:
                streams.register(worker.stream, selectors.EVENT_READ, worker)
            return readable(streams, seconds)

    def _wait(self, waiting: deque[Task], on_result: OnResult) -> None:
        """Takes what workers answer until one does or a limit is over."""
        before = time.monotonic()
        busy = [worker for worker in self._workers if worker.tasks or not worker.is_ready]
        seconds = max(0.0, min((worker.deadline for worker in busy), default=before) - before)
        if waiting and len(self._workers) < MAX_WORKERS:
            seconds = min(seconds, self._stuck_share * self.timeout_s)
        ready, overslept = self._readable(seconds)
        if overslept > _STOPPED_SECONDS:  # the workers may have been stopped with us
            for worker in self._workers:
                worker.deadline += overslept
        for worker in ready:
            self._take_answers(worker, waiting, on_result)
        now = time.monotonic()
        for worker in [
            worker for worker in self._workers if now > worker.deadline and (worker.tasks or not worker.is_ready)
        ]:
            problem = f"timeout: no score within {worker.limit_s(self.timeout_s):g} s"
            worker.end()
            self._stuck_share = _STUCK_SHARE_AFTER_TIMEOUT
            self._replace(
                worker,
                waiting,
                on_result,
                Verdict(None, Outcome.TIMEOUT, problem),
                f"did not start within {START_SECONDS:.0f} s",
            )

    def _take_answers(self, worker: VerifierWorker, waiting: deque[Task], on_result: OnResult) -> None:
        try:
            values = worker.receive()
        except (EOFError, OSError):
            how = worker.end(has_ended=True)
            self._replace(
                worker,
                waiting,
                on_result,
                Verdict(None, Outcome.ERROR, f"exit: its process ended{how}"),
                f"died while it was imported or tried{how}",
            )
            return
        for value in values:
            worker.since = time.monotonic()
            if not worker.is_ready:
                try:
                    problem = from_bytes(value, str | None)
                except BadMessage:
                    problem = "its process answered out of turn (does it fork while it is imported?)"
                if problem is not None and not self._has_started:
                    self.close()
                    raise UserError(problem)
                worker.is_ready, self._failed_starts = True, 0
                continue
            try:
                numbers, scores, problem = from_bytes(value, ANSWER)
            except BadMessage:
                numbers = None
            if not worker.tasks or worker.tasks[0].numbers != numbers:  # a process that a verifier started answers too
                worker.end()
                out_of_turn = "exit: its process answered out of turn (does it fork, and go on in the child?)"
                verdict = Verdict(None, Outcome.ERROR, out_of_turn)
                self._replace(worker, waiting, on_result, verdict, "answered out of turn")
                return
            worker.tasks.popleft()
            worker.deadline = worker.since + worker.limit_s(self.timeout_s)
            for place, number in enumerate(numbers):
                on_result(number, Verdict(scores[place]) if scores else Verdict(None, Outcome.ERROR, problem))

    def _replace(
        self, worker: VerifierWorker, waiting: deque[Task], on_result: OnResult, verdict: Verdict, at_start: str
    ) -> None:
        """For a worker that has been ended: its first task gets the verdict, the others wait again, in front."""
        self._workers.remove(worker)
        self._failed_starts += not worker.is_ready
        if self._failed_starts >= (_MAX_FAILED_STARTS if self._has_started else 1):
            self.close()
            raise UserError(f"verifier {', '.join(map(repr, self.names))} {at_start}")
        failed = worker.tasks.popleft() if worker.tasks else None
        waiting.extendleft(reversed(worker.tasks))
        if len(self._workers) < self.num_workers:
            self._start()
        for number in failed.numbers if failed is not None else ():
            on_result(number, verdict)
