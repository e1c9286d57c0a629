"""Training on preferences; see --help.

python -m mindrlhf_lite.dpo --config dpo.yaml
"""

from mindrlhf_lite.commands.signals import end_on_signals
from mindrlhf_lite.commands.tool import prepare_process

if __name__ == "__main__":
    prepare_process()
    end_on_signals()
    from mindrlhf_lite.launch.program import DPO
    from mindrlhf_lite.launch.stage import main

    main(DPO)
