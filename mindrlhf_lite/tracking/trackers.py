"""Trackers of a run, a process each: what a library does, forks or forgets to end never touches the run. Messages go
through pipes that are never waited for, but for a few seconds at the end; a tracker that fails or hangs is a note.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindrlhf_lite.files.text_file import read_text, say, write_text

NAMES = ("wandb", "swanlab", "mlflow", "trackio")
PROJECT = "mindrlhf_lite"
LAST_SECONDS = 5.0  # that all of them together may take at the end
_MOST_BYTES = 16 << 20  # that wait for a tracker
_MOST_ROWS = 64  # of a step's samples
_COLUMNS = ("prompt", "completion", "gold", "reward", "advantage", "tokens", "finish_reason")


class Trackers:
    """Args: names: of `NAMES`; python: that has their libraries; output: of the run, which has a folder for each;
    config: its settings.
    """

    def __init__(self, names: Sequence[str], python: str, output: Path, config: Mapping[str, Any]):
        folder = output / "trackers"
        if names:
            folder.mkdir(parents=True, exist_ok=True)
            run = {"project": PROJECT, "name": output.resolve().name, "id": _id_in(folder), "config": config}
        self._trackers = [_Tracker(name, python or sys.executable, folder / name, run) for name in names]

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._send("metrics", step, {key: value for key, value in values.items() if math.isfinite(value)})

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Args: rows: as completions/step_N.jsonl has them; the first ones are shown."""
        if self._trackers:
            shown = [[row.get(column) for column in _COLUMNS] for row in rows[:_MOST_ROWS]]
            self._send("samples", step, _COLUMNS, shown)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._send("summary", values)

    def close(self) -> None:
        """Waits at most `LAST_SECONDS` for all."""
        deadline = time.monotonic() + LAST_SECONDS
        for tracker in self._trackers:
            tracker.end_input(deadline)
        for tracker in self._trackers:
            tracker.wait(deadline)
        self._trackers = []

    def _send(self, kind: str, *arguments: Any) -> None:
        for tracker in self._trackers:
            tracker.send([kind, arguments])


class _Tracker:
    def __init__(self, name: str, python: str, folder: Path, run: Mapping[str, Any]):
        self._name, self._log = name, folder.with_suffix(".log")
        self._waiting, self._process = bytearray(), None
        command = [python, str(Path(__file__).with_name("worker.py")), name, str(folder)]
        try:
            with open(self._log, "ab") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment(), start_new_session=True
                )
        except OSError as error:
            say(f"note: tracker {name} is left out: {python}: {error.strerror or error}")
            return
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self.send(run)

    def send(self, message: Any) -> None:
        if self._process is None:
            return
        self._waiting += json.dumps(message, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"
        self._write()
        if len(self._waiting) > _MOST_BYTES:
            self._leave_out("it does not read what it is sent")

    def end_input(self, deadline: float) -> None:
        """Sends what waits, and says that nothing follows."""
        while self._process is not None and self._waiting and time.monotonic() < deadline:
            assert self._process.stdin is not None
            select.select([], [self._process.stdin], [], max(0.0, deadline - time.monotonic()))
            self._write()
        if self._process is not None and not self._waiting:
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def wait(self, deadline: float) -> None:
        if self._process is None:
            return
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._leave_out(f"it did not end within {LAST_SECONDS:g} s")
            return
        if code:
            self._leave_out("")

    def _write(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            while self._waiting:
                del self._waiting[: os.write(self._process.stdin.fileno(), self._waiting[: 1 << 16])]
        except BlockingIOError:
            return
        except OSError:
            self._leave_out("")

    def _leave_out(self, why: str) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with what it has started
        self._process.wait()
        lines = (
            self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if self._log.is_file() else []
        )
        last = why or (lines[-1] if lines else f"its process ended with code {self._process.returncode}")
        say(f"note: tracker {self._name} is left out from here on: {last[:300]} (more in {self._log})")
        self._process = None


def _id_in(folder: Path) -> str:
    """The run's, by which a resumed one goes on."""
    path = folder / "id"
    if not path.is_file():
        write_text(path, uuid.uuid4().hex[:20])
    return read_text(path).strip()


def _environment() -> dict[str, str]:
    """Without what belongs to this process's Python."""
    left_out = ("PYTHONPATH", "PYTHONHOME", "LD_PRELOAD")
    return {name: value for name, value in os.environ.items() if name not in left_out}
