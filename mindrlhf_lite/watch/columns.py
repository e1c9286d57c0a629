"""A run's metrics by key, and as few points of them as show the whole curve."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mindrlhf_lite.observe.concerns import FIRST_ROWS, LAST_ROWS
from mindrlhf_lite.observe.plots import drawable

MOST_POINTS = 600  # of a curve on a page
_MOST_SHAPES = 200  # sets of keys that rows have: a run has a few, others' files may have any number


class _Table:
    """Rows that have the same keys. Args: keys: "step" among them."""

    def __init__(self, keys: tuple[str, ...]):
        self.places = {key: place for place, key in enumerate(keys)}
        self._values = array("d")

    def add(self, row: Mapping[str, float]) -> None:
        self._values.extend(row.values())

    def column(self, key: str) -> np.ndarray:
        """float64 [rows]"""
        return np.frombuffer(self._values).reshape(-1, len(self.places))[:, self.places[key]].copy()

    def keep_before(self, step: int) -> None:
        rows = np.frombuffer(self._values).reshape(-1, len(self.places))
        kept = rows[rows[:, self.places["step"]] < step].copy()
        del rows
        self._values = array("d", kept.ravel())


class Columns:
    """Rows by step; where a step comes again, those from it on are dropped first.

    Attributes: count: rows so far; newest: the last of them, or empty; first, last: those that trends look at.
    """

    def __init__(self) -> None:
        self.count = 0
        self.newest: dict[str, Any] = {}
        self.first: list[dict[str, Any]] = []
        self.last: deque[dict[str, Any]] = deque(maxlen=LAST_ROWS)
        self._tables: dict[tuple[str, ...], _Table] = {}

    def add(self, row: dict[str, Any]) -> None:
        step, keys = row["step"], tuple(row)
        if self.newest and step <= self.newest["step"]:
            for table in self._tables.values():
                table.keep_before(step)
        self.count += 1
        self.newest = row
        if step > 0:
            (self.first if len(self.first) < FIRST_ROWS else self.last).append(row)
        if keys not in self._tables:
            if len(self._tables) >= _MOST_SHAPES:
                return
            self._tables[keys] = _Table(keys)
        self._tables[keys].add(row)

    @property
    def keys(self) -> list[str]:
        return sorted({key for table in self._tables.values() for key in table.places} - {"step"})

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The first and the last ones."""
        return [*self.first, *self.last]

    def points(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values), both float64 [rows that have the key]."""
        own = [table for table in self._tables.values() if key in table.places]
        if not own:
            return np.empty(0), np.empty(0)
        steps, values = (np.concatenate([table.column(name) for table in own]) for name in ("step", key))
        order = np.argsort(steps, kind="stable")
        return steps[order], values[order]


def thin(steps: np.ndarray, values: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points: first, last, and the lowest and the highest of every bucket between, so that no spike is
    lost. A bucket without a finite value keeps one, which is a gap.

    Args: steps, values: float64 [N]; most: at least 4.
    """
    if len(steps) <= most:
        return steps, values
    inner = np.arange(1, len(steps) - 1)
    buckets = (most - 2) // 2
    edges = np.linspace(0, len(inner), buckets + 1).astype(int)
    width = int(np.diff(edges).max())
    places = np.minimum(edges[:-1, None] + np.arange(width), edges[1:, None] - 1)  # [buckets, width], the last repeats
    own = values[inner[places]]
    is_finite = np.isfinite(own)
    lowest = np.where(is_finite, own, np.inf).argmin(1)
    highest = np.where(is_finite, own, -np.inf).argmax(1)
    chosen = np.take_along_axis(inner[places], np.stack([lowest, highest], 1), 1).ravel()
    kept = np.unique(np.concatenate([[0], chosen, [len(steps) - 1]]))
    return steps[kept], values[kept]


def as_json(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """Numbers for a drawing: what none can show (NaN, infinite, out of all bounds) is a gap. Six digits are enough."""
    return [None if value != value else value for value in (drawable(float(f"{each:.6g}")) for each in values)]


def number(value: float) -> float | str:
    """A number for JSON, which has no NaN."""
    return value if np.isfinite(value) else str(value)


def numbers(row: Mapping[str, float]) -> dict[str, float | str]:
    return {key: number(value) for key, value in row.items()}
