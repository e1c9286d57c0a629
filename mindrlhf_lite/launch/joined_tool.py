"""A tool whose ranks msrun starts: where one fails, the others and the scheduler end, as those of a run do."""

from __future__ import annotations

import os
from collections.abc import Callable

from mindrlhf_lite.commands.tool import run_tool
from mindrlhf_lite.job.guarded_rank import start_guard
from mindrlhf_lite.job.lifelines import end_rank_after_msrun
from mindrlhf_lite.launch.scheduler import schedule


def run_joined_tool(main: Callable[[], None]) -> None:
    """As `run_tool`, under msrun or alone."""
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        schedule()
        return
    start_guard()
    end_rank_after_msrun()
    run_tool(main)
