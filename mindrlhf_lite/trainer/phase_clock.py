"""How long the phases of a step take, what is in memory during each, and what the console shows of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from mindrlhf_lite.observe.console import Console
from mindrlhf_lite.swap.residency import Residency, Traffic


class PhaseClock:
    """Times phases between two calls of `take`. Args: scoring: names of the roles that score sequences."""

    def __init__(self, residency: Residency, console: Console, scoring: Sequence[str]):
        # time_s/NAME of every step
        self._names = ("generate", "reward", *scoring, "update", "reshard", "swap")
        self._residency, self._console = residency, console
        self._seconds, self._start = dict.fromkeys(self._names, 0.0), time.perf_counter()

    def begin_step(self, step: int) -> None:
        self._console.begin(step)
        self._start = time.perf_counter()

    @contextmanager
    def phase(self, name: str, residency: str | None = None, then: str | None = None) -> Iterator[None]:
        """Adds to NAME what happens within, but for swapping; in a residency phase if one is named.

        Args: then: the residency phase that is likely to follow.
        """
        self._console.phase(name)
        with self._residency.phase(residency, then) if residency else nullcontext():
            start, swapped = time.perf_counter(), self._residency.traffic.seconds
            yield
            swapped = self._residency.traffic.seconds - swapped
            self._seconds[name] += time.perf_counter() - start - swapped

    def take(self) -> tuple[dict[str, float], Traffic]:
        """(seconds of the phases and, as "step", since the step began; what was swapped), and begins anew."""
        traffic = self._residency.take_traffic()
        self._seconds["swap"] += traffic.seconds
        seconds, self._seconds = self._seconds, dict.fromkeys(self._names, 0.0)
        return {"step": time.perf_counter() - self._start, **seconds}, traffic
