"""Memory and processors of this host while a run goes on, and an end in order before the system ends it.

What counts is the share of the memory that this process can have: of the host, of the cgroups that it is in, of its
address space where `ulimit -v` limits that. The kernel ends processes when one of them is used up.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.config.sections.monitor import MonitorConfig
from mindrlhf_lite.files.text_file import printable_lines

_GIB = float(1 << 30)
_CHECK_SECONDS = 1.0  # between looks at the memory, where it is protected and no interval is set
_UNLIMITED = 1 << 60  # cgroup v1's "no limit" is a number near 2**63


@dataclass(frozen=True)
class Usage:
    """Example: Usage(used_gb=21.5, limit_gb=24.0, what="the host")"""

    used_gb: float
    limit_gb: float
    what: str

    @property
    def share(self) -> float:
        return self.used_gb / self.limit_gb


class MemoryIsShort(Exception):
    """The run was stopped in order, before the system would have ended it."""


def memory_usage() -> Usage:
    """The memory that is nearest to its limit."""
    return max(_usages(), key=lambda usage: usage.share)


def _usages() -> Iterator[Usage]:
    info = {
        name: int(text.split()[0]) * 1024
        for name, _, text in (
            line.partition(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        )
    }
    yield Usage((info["MemTotal"] - info["MemAvailable"]) / _GIB, info["MemTotal"] / _GIB, "this host")
    for folder in _cgroups():
        for used_name, limit_name in (("memory.current", "memory.max"), _V1):
            used, limit = _number(folder / used_name), _number(folder / limit_name)
            if used is not None and limit is not None and 0 < limit < _UNLIMITED:
                yield Usage((used - _cached(folder)) / _GIB, limit / _GIB, f"the cgroup {folder}")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        yield Usage(pages * resource.getpagesize() / _GIB, limit / _GIB, "this process's address space (ulimit -v)")


_V1 = ("memory.usage_in_bytes", "memory.limit_in_bytes")


def _cgroups() -> list[Path]:
    """Folders of the memory cgroups of this process, and of those around them, of version 1 and 2."""
    found = []
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = Path("/sys/fs/cgroup") / controllers
        own = root / path.lstrip("/")
        found += [folder for folder in (own, *own.parents) if folder == root or root in folder.parents]
    return found


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cached(folder: Path) -> int:
    """Bytes of files that the kernel drops when memory is short."""
    try:
        words = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return 0
    return int(words.get("total_inactive_file", words.get("inactive_file", 0)))


class HostMonitor:
    """Samples in a thread of its own, for as long as the context lasts.

    Example:
        with HostMonitor(config, hint) as monitor:
            values = monitor.take(step)    # metrics since the last call
            usage = monitor.exceeded()     # a reason to stop, or None
    """

    def __init__(self, config: MonitorConfig, hint: ResumeHint):
        self.config, self._hint = config, hint
        self._samples: list[tuple[float, float]] = []  # (memory used GiB, share)
        self._exceeded: Usage | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="host monitor", daemon=True)
        self._cpu = _cpu_seconds()

    def __enter__(self) -> HostMonitor:
        if self.config.host_monitor_interval > 0 or self.config.host_memory_protection:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        interval = self.config.host_monitor_interval
        if self.config.host_memory_protection:
            interval = min(interval, _CHECK_SECONDS) if interval > 0 else _CHECK_SECONDS
        while not self._over.wait(interval):
            usage = memory_usage()
            self._samples.append((usage.used_gb, usage.share))
            if not self.config.host_memory_protection or usage.share <= self.config.host_max_memory_threshold:
                continue
            self._exceeded = usage
            if usage.share > (1 + self.config.host_max_memory_threshold) / 2:
                message = f"error: {self.message(usage)}; {self._hint.text()}"
                print(f"\n{printable_lines(message)}", file=sys.stderr, flush=True)
                os._exit(1)

    def message(self, usage: Usage) -> str:
        return (
            f"{usage.used_gb:.2f} of {usage.limit_gb:.2f} GiB of {usage.what} are in use, over "
            f"monitor_config.host_max_memory_threshold={self.config.host_max_memory_threshold:g}: the run ends before "
            "the system ends it. Less takes: more micro-batches (actor_config.parallel_config.micro_batch_num), "
            "rl_config.swap=true, a smaller generate_config.max_num_seqs"
        )

    @property
    def has_metrics(self) -> bool:
        """Whether there are metrics."""
        return self.config.host_monitor_interval > 0

    def exceeded(self) -> Usage | None:
        """The last usage over the threshold, where the memory is protected."""
        return self._exceeded

    def take(self, step: int) -> dict[str, float]:
        """Metrics of the time since the last call; none where nothing is sampled, or not in this step."""
        samples, self._samples = self._samples, []
        before, self._cpu = self._cpu, _cpu_seconds()
        steps = self.config.host_monitor_steps
        if not self.has_metrics or (steps and step not in steps):
            return {}
        if not samples:  # a step shorter than the interval
            usage = memory_usage()
            samples = [(usage.used_gb, usage.share)]
        busy, total = (now - then for now, then in zip(self._cpu, before, strict=True))
        return {
            "host/memory_used_gb": max(used for used, _ in samples),
            "host/memory_used_share": max(share for _, share in samples),
            "host/cpu_busy_share": min(busy / max(total, 1e-9), 1.0),  # both are sums of rounded times
        }


def _cpu_seconds() -> tuple[float, float]:
    """(seconds that this host's processors were busy, seconds of all of them), since some moment."""
    numbers = [float(word) for word in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    idle = numbers[3] + numbers[4]
    ticks = os.sysconf("SC_CLK_TCK")
    return (sum(numbers) - idle) / ticks, sum(numbers) / ticks
