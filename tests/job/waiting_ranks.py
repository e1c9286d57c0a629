"""Ranks that wait, beside the scheduler that main.py would start."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.job.guarded_rank import start_guard
from mindrlhf_lite.launch.rank import main

if os.environ["MS_ROLE"] == "MS_SCHED":
    main([])
start_guard()
time.sleep(120)
