#!/usr/bin/env python3
"""GRPO training; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.cli import prepare_process
from mindrlhf_lite.job.signals import end_on_signals

if __name__ == "__main__":
    prepare_process()
    end_on_signals()
    from mindrlhf_lite.trainer.launch import main

    main()
