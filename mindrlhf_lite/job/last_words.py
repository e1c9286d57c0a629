"""What stands at the end of a rank's log: its own error, or else its last lines."""

from __future__ import annotations

from pathlib import Path

from mindrlhf_lite.job.whereabouts import RUN_BAR


def error_lines(log: Path) -> list[str]:
    """Lines at the end of a log that begin with "error:"."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [
        line for line in lines if line.startswith("error:") or "error: rank " in line
    ]  # the latter behind a progress bar


def last_lines(log: Path, count: int = 3) -> str:
    """The last lines of a log that are not a progress bar's, each on a line of its own, indented."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    kept = [line.rstrip() for line in lines if line.strip() and not line.startswith(f"{RUN_BAR} ")]
    return "".join(f"\n    {line[:200]}" for line in kept[-count:])
