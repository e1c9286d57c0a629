"""Training of a reward model; see --help.

python -m mindrlhf_lite.reward_model --config reward_model.yaml
"""

from mindrlhf_lite.commands.signals import end_on_signals
from mindrlhf_lite.commands.tool import prepare_process

if __name__ == "__main__":
    prepare_process()
    end_on_signals()
    from mindrlhf_lite.launch.program import REWARD_MODEL
    from mindrlhf_lite.launch.stage import main

    main(REWARD_MODEL)
