"""This process's memory, and what produced a run: versions, git commit."""

from __future__ import annotations

import platform
import resource
import subprocess
from importlib import metadata
from pathlib import Path

_GIB = float(1 << 30)


def rss_gb() -> float:
    """Resident memory now, GiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / _GIB


def peak_rss_gb() -> float:
    """Largest resident memory of this program, GiB. From VmHWM: getrusage also counts the parent's memory before
    exec.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / _GIB


def reset_peak_rss() -> None:
    """Makes `peak_rss_gb` count from now on (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    found = {"python": platform.python_version()}
    for package in ("mindspore", "numpy", "transformers", "tokenizers", "safetensors", "gguf", "jinja2", "math-verify"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str:
    """The commit of this source tree, with "+changes" where it was edited; "unknown" outside git."""
    root = Path(__file__).resolve().parents[2]
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changed else "")


def memory_limit_gb() -> float:
    """What this process can have at most, GiB: the host's memory, or less where a cgroup limits it."""
    total = int(Path("/proc/meminfo").read_text(encoding="ascii").split("MemTotal:")[1].split()[0]) * 1024
    limits = [total]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        limits += [int(text)] if text.isdigit() else []
    return min(limits) / _GIB
