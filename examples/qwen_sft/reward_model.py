#!/usr/bin/env python3
"""Training of a reward model (as python -m mindrlhf_lite.reward_model), for msrun; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.commands.signals import end_on_signals
from mindrlhf_lite.commands.tool import prepare_process

if __name__ == "__main__":
    prepare_process()
    end_on_signals()
    from mindrlhf_lite.launch.program import REWARD_MODEL
    from mindrlhf_lite.launch.stage import main

    main(REWARD_MODEL)
