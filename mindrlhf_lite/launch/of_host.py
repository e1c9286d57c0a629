"""What a rank has of the host, or the device, that a command is for."""

from __future__ import annotations

import os
from dataclasses import replace

from mindrlhf_lite.config.memory_plan import ASCEND_MEMORY_GIB
from mindrlhf_lite.estimate.devices import Device, of_rank
from mindrlhf_lite.launch.command_line import Command, ranks_of_this_host
from mindrlhf_lite.observe.host import memory_limit_gb


def device_of_rank(command: Command) -> Device:
    """Ranks on CPU share the processors and the memory of this host."""
    device, gib = command.device, command.device_memory_gb
    if command.config.context.device_target != "CPU":
        return replace(device, memory_gib=gib or device.memory_gib or ASCEND_MEMORY_GIB)
    ranks, cores = ranks_of_this_host(command.num_ranks), len(os.sched_getaffinity(0))
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, cores // ranks))
    return replace(of_rank(device, ranks, threads, cores), memory_gib=gib or memory_limit_gb() / ranks)
