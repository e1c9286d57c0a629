#!/usr/bin/env python3
"""Training on preferences (as python -m mindrlhf_lite.dpo), for msrun; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.commands.signals import end_on_signals
from mindrlhf_lite.commands.tool import prepare_process

if __name__ == "__main__":
    prepare_process()
    end_on_signals()
    from mindrlhf_lite.launch.program import DPO
    from mindrlhf_lite.launch.stage import main

    main(DPO)
