"""Supervised training; see --help.

python -m mindrlhf_lite.sft --config sft.yaml
"""

from mindrlhf_lite.commands.signals import end_on_signals
from mindrlhf_lite.commands.tool import prepare_process

if __name__ == "__main__":
    prepare_process()
    end_on_signals()
    from mindrlhf_lite.launch.program import SFT
    from mindrlhf_lite.launch.stage import main

    main(SFT)
