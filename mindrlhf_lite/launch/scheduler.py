"""The scheduler that msrun starts beside the ranks, with their command line."""

from __future__ import annotations

import os
import re

from mindrlhf_lite.commands.tool import fail
from mindrlhf_lite.job import SECOND_NODE_VARIABLE
from mindrlhf_lite.job.lifelines import end_scheduler_after_job
from mindrlhf_lite.job.ports import is_taken, taken_message
from mindrlhf_lite.job.processes import Process


def schedule() -> None:
    """Serves the ranks until their job is over."""
    address, port = os.environ.get("MS_SCHED_HOST", "127.0.0.1"), int(os.environ.get("MS_SCHED_PORT", "0"))
    if os.environ.get(SECOND_NODE_VARIABLE):  # another node on the first one's host: that one's scheduler serves both
        return
    end_scheduler_after_job()
    if is_taken(address, port):
        fail(taken_message("--master_port", address, port))
    if _has_all_ranks_here():
        # guards see at once when a rank dies; one that is stopped for a while, or a clock that jumps, is no reason to
        # end the run
        os.environ.setdefault("MS_NODE_TIMEOUT", str(30 * 24 * 3600))
    from mindspore import communication

    communication.init("mccl")


def _has_all_ranks_here() -> bool:
    """Whether msrun, which started this process, starts all ranks on this host; False where its command line does not
    say so.
    """
    msrun = Process.find(os.getppid())
    command = " ".join(msrun.command_line()) if msrun else ""
    found = re.search(r"--local_worker_num[= ](\d+)", command)
    return found is not None and found[1] == os.environ.get("MS_WORKER_NUM")
