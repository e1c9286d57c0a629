"""Memory of the host: where its limits are, and what a monitored run leaves."""

import resource
import subprocess
import sys
import time

import pytest
from helpers import ROOT, clean_environment

from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.config.sections.monitor import MonitorConfig
from mindrlhf_lite.observe.host_monitor import HostMonitor, memory_usage

PROGRAM = """
import resource, sys, time
sys.path.insert(0, {root!r})
from mindrlhf_lite.config.sections.monitor import MonitorConfig
from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.observe.host_monitor import HostMonitor, memory_usage
config = MonitorConfig(host_memory_protection=True, host_max_memory_threshold={threshold})
held = bytearray({held})
usage, pages = memory_usage(), int(open("/proc/self/statm").read().split()[0])
print(usage.what, usage.share, pages * resource.getpagesize() / {limit}, sep="|", flush=True)
with HostMonitor(config, ResumeHint("out", "out/checkpoints", "go on")) as monitor:
    time.sleep(2.5)
    print("exceeded" if monitor.exceeded() else "all is well", flush=True)
"""


def limited(threshold, held_mib, limit_mib=2048):
    """A process with so much address space."""
    limit = limit_mib << 20
    program = PROGRAM.format(root=str(ROOT), threshold=threshold, held=held_mib << 20, limit=limit)
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )


THRESHOLD = 0.6  # above it, and half the way from there to all of the memory, the run ends


def test_a_process_far_from_its_limit():
    """Of 2 GiB of address space less than 60 %. The host, which may be nearer to its end, decides the rest."""
    result = limited(THRESHOLD, 50)
    _, nearest, own = result.stdout.splitlines()[0].split("|")
    assert float(own) < THRESHOLD
    if float(nearest) < THRESHOLD:
        assert result.returncode == 0 and "all is well" in result.stdout, result.stdout + result.stderr
    else:
        assert "exceeded" in result.stdout or "the run ends before" in result.stderr, result.stdout + result.stderr


@pytest.mark.parametrize(("held", "code", "said"), [(1250, 0, "exceeded"), (1620, 1, "the run ends before")])
def test_a_process_near_its_limit(held, code, said):
    """Above 60 % of 2 GiB of address space, and above 80 %."""
    result = limited(THRESHOLD, held)
    what, nearest, own = result.stdout.splitlines()[0].split("|")
    assert "ulimit -v" in what and THRESHOLD < float(own) == pytest.approx(float(nearest), rel=0.05)
    assert result.returncode == code and said in result.stdout + result.stderr, result.stdout + result.stderr
    if code:
        assert "go on" in result.stderr or "there is no checkpoint" in result.stderr


def test_metrics_of_chosen_steps():
    config = MonitorConfig(host_monitor_interval=0.05, host_monitor_steps=[2])
    with HostMonitor(config, ResumeHint("", "", "")) as monitor:
        time.sleep(0.2)
        assert monitor.take(1) == {}
        time.sleep(0.2)
        found = monitor.take(2)
    assert 0 < found["host/memory_used_share"] < 1 and 0 <= found["host/cpu_busy_share"] <= 1
    assert found["host/memory_used_gb"] > 0.01 and memory_usage().limit_gb > 0.1
