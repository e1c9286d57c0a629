"""A program with a time limit, in a session of its own: one that hangs ends with all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_in_time(command: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: int) -> None:
    """Raises RuntimeError: it failed, or took too long."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            said = process.communicate(timeout=seconds)[0].splitlines()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        except subprocess.TimeoutExpired:
            process.terminate()  # a launcher ends its ranks
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise RuntimeError(f"not done after {seconds} s") from None
    if process.returncode:
        wrong = [line for line in said if "rror" in line] or said
        raise RuntimeError(f"exit code {process.returncode}: {wrong[-1] if wrong else ''}")
