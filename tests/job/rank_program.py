"""What ranks and scheduler of the job tests run: guard and lifelines, and nothing that takes long to start."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.job.guarded_rank import start_guard, tell_guard
from mindrlhf_lite.job.lifelines import end_rank_after_msrun, end_scheduler_after_job

mode, folder = sys.argv[1], Path(sys.argv[2])
role, rank = os.environ["MS_ROLE"], os.environ.get("RANK_ID", "0")
if role == "MS_SCHED":
    end_scheduler_after_job()
else:
    start_guard()
    end_rank_after_msrun()
    tell_guard(ResumeHint.of(str(folder), str(folder / "checkpoints")))
(folder / f"{role}_{rank}").write_text(str(os.getpid()))
if mode == "done":
    sys.exit(0)
if role == "MS_SCHED" and mode == "second_node":  # the first node's serves both
    time.sleep(2)
    sys.exit(0)
if role == "MS_WORKER" and rank == "1" and mode == "mistake":
    time.sleep(1)
    print("error: rank 1: rl_config.beta=high: a number is needed", file=sys.stderr, flush=True)
    os._exit(2)
time.sleep(120)
