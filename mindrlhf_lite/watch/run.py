"""A run's output folder as it is looked at again and again: only what is new is read.

The folder may be somebody else's: its files are checked as they are read, and none outside of it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mindrlhf_lite.config.sections.monitor import HealthConfig
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.json_file import read_json
from mindrlhf_lite.job.lock import is_held
from mindrlhf_lite.job.whereabouts import last_noted
from mindrlhf_lite.observe.concerns import Concern, health_concerns, trends
from mindrlhf_lite.observe.console import seconds_left
from mindrlhf_lite.observe.health import CHECKS
from mindrlhf_lite.observe.run_files import (
    START_FILE,
    check_completion,
    check_evaluation,
    check_is_regular,
    check_sample,
    check_start,
    check_summary,
    read_json_lines,
)
from mindrlhf_lite.observe.runs import files_by_step
from mindrlhf_lite.watch.columns import Columns
from mindrlhf_lite.watch.tail import Tail

_REST_S = 0.4  # files are not looked at more often
_MEASURED_STEPS = 50  # the newest ones, whose median is the estimate's
_LARGEST_FILE = 128 << 20  # bytes of completions that are read at once
_KEPT_FILES = 2  # as many as are compared

Rows = list[dict[str, Any]]


class _Kept:
    """What was made of a file, until it changes. Example: _Kept().of(path, lambda: read_json(path))"""

    def __init__(self) -> None:
        self._kept: dict[Path, tuple[tuple[int, int, int], Any]] = {}

    def of(self, path: Path, make: Callable[[], Any]) -> Any:
        found = os.stat(path)
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._kept.get(path, ((), None))[0] != stamp:
            while len(self._kept) >= _KEPT_FILES:
                del self._kept[next(iter(self._kept))]
            self._kept[path] = (stamp, make())
        return self._kept[path][1]


class WatchedRun:
    """Args: completions: folder of its completion files, None: OUTPUT/completions; log: of its first rank, likewise."""

    def __init__(self, name: str, folder: Path, completions: Path | None = None, log: Path | None = None):
        self.name, self.folder, self.completions = name, folder, completions or folder / "completions"
        self.log = log or folder / "msrun_log" / "worker_0.log"
        self.columns, self.version = Columns(), 0
        self._tail, self._looked = Tail(folder / "metrics.jsonl"), 0.0
        self._kept, self._listed, self._facts = _Kept(), _Kept(), _Kept()
        self._damages: dict[str, str] = {}

    def look(self) -> None:
        """Reads what is new. `version` counts how often that was something."""
        if time.monotonic() - self._looked < _REST_S:
            return
        is_void, rows = self._tail.read()
        if is_void:
            self.columns = Columns()
        for row in rows:
            self.columns.add(row)
        self.version += bool(is_void or rows)
        self._looked = time.monotonic()

    @property
    def start(self) -> dict[str, Any]:
        """What the run said as it began; empty where it did not."""
        return self._json(START_FILE, check_start)

    @property
    def summary(self) -> dict[str, Any]:
        return self._json("summary.json", check_summary)

    @property
    def step(self) -> int:
        return int(self.columns.newest.get("step", 0))

    @property
    def last_step(self) -> int:
        """0: not known."""
        return max(self.step, self.start.get("last_step", 0))

    @property
    def state(self) -> str:
        """running, finished, ended (early), waiting (nothing yet), unknown (a process of another host may write)."""
        held = is_held(self.folder)
        if held:
            return "running"
        if "steps" in self.summary and self.summary["steps"] >= self.step > 0:
            return "finished"
        if held is None:
            return "unknown"
        return "ended" if self.columns.count else "waiting"

    @property
    def phase(self) -> str:
        """What the first rank noted last beside its log; "" where the log is elsewhere, or the run over."""
        at = self.log.with_suffix(".at")
        return last_noted(self.log)[:200] if at.is_file() and at.stat().st_size < 4096 else ""

    @property
    def age_s(self) -> float | None:
        """Since the newest row was written."""
        try:
            return max(0.0, time.time() - (self.folder / "metrics.jsonl").stat().st_mtime)
        except OSError:
            return None

    def seconds_left(self) -> float | None:
        _, seconds = self.columns.points("time_s/step")
        return seconds_left(seconds[1:][-_MEASURED_STEPS:].tolist(), self.last_step - self.step)

    @property
    def concerns(self) -> list[Concern]:
        counts = {each.name: self.columns.points(f"health/{each.name}") for each in CHECKS}
        pairs = {name: [(int(step), value) for step, value in zip(*own)] for name, own in counts.items() if any(own[1])}
        return health_concerns(pairs, self._patience()) + trends(self.columns.rows)

    @property
    def damages(self) -> list[str]:
        """What cannot be read of its files, in words."""
        return [text for text in (self._tail.damage, *self._damages.values()) if text]

    def files(self, kind: str) -> dict[int, Path]:
        """Of "step" or "eval", by step."""
        if not self.completions.is_dir():
            return {}
        listed = self._listed.of(self.completions, self._list)
        return listed[kind]

    def _list(self) -> dict[str, dict[int, Path]]:
        return {kind: files_by_step(self.completions, kind) for kind in KINDS}

    def rows(self, kind: str, step: int) -> Rows:
        """Of completions/KIND_STEP.jsonl. Raises UserError: there are none, or they are damaged."""
        path = self.files(kind).get(step)
        if path is None:
            raise UserError(f"{self.name}: no completions of {kind} {step}")
        check_is_regular(path)
        if path.stat().st_size > _LARGEST_FILE:
            raise UserError(f"{path}: more than {_LARGEST_FILE >> 20} MiB: too large for this page")
        return self._kept.of(path, lambda: read_json_lines(path, KINDS[kind]))

    def _patience(self) -> int:
        value: Any = self.start.get("config", {})
        for key in ("monitor_config", "health", "patience"):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if isinstance(value, int) and value > 0 else HealthConfig().patience

    def _json(self, name: str, check: Callable[[Any, str], dict[str, Any]]) -> dict[str, Any]:
        path = self.folder / name
        self._damages.pop(name, None)
        try:
            return self._facts.of(path, lambda: check(read_json(path), str(path))) if path.is_file() else {}
        except (UserError, OSError) as error:
            self._damages[name] = str(error)
            return {}


def lines_of(run: WatchedRun) -> list[str]:
    """How a run stands, for a console."""
    run.look()
    phase = f", {run.phase}" if run.phase and run.state != "finished" else ""
    concerns = [f"  steps {each.first_step} to {each.last_step}: {each.text}" for each in run.concerns]
    stands = f"{run.state}, step {run.step} of {run.last_step}{phase}"
    return [
        f"{run.name}: " + (f"waiting; {run.folder} has no steps of a run yet" if run.state == "waiting" else stands),
        *concerns,
        *(f"  cannot be read: {text}" for text in run.damages),
    ]


def _check_evaluation(row: Any, where: str) -> dict[str, Any]:
    """A question with its answers; of a run on rows, whose answers nobody has judged, `correct` is None."""
    if not isinstance(row, dict) or "completions" in row:
        return check_evaluation(row, where)
    check_sample(row, where)
    answer = {"text": row["completion"], "tokens": row.get("tokens"), "correct": None}
    return {"index": row["index"], "prompt": row["prompt"], "gold": row["answer"], "completions": [answer]}


KINDS: dict[str, Callable[[Any, str], dict[str, Any]]] = {"step": check_completion, "eval": _check_evaluation}
