"""What sets the programs apart that are started as main.py is: their options, settings and checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.stages import PreferenceStageConfig, RewardModelConfig, StageConfig, stage_problems
from mindrlhf_lite.config.validate import find_problems

_EXAMPLES = """examples:
  msrun --worker_num=2 --local_worker_num=2 --join=True examples/qwen_grpo/main.py --config grpo_config.yaml
  python examples/qwen_grpo/main.py --config grpo_config.yaml --rl_config.max_steps=3      (one rank, no msrun)
  python examples/qwen_grpo/main.py --config grpo_config.yaml --dry_run                    (check, print the plan, stop)
  ... main.py --config grpo_config.yaml --model_config model_configs/qwen2_5_7b.yaml --dry_run --devices 8 \\
      --device_memory_gb 64 --compile
  ... main.py --config grpo_config.yaml --preset dapo --rl_config.epsilon_high=0.3
  ... main.py --config grpo_config.yaml --verifier_function accuracy_reward,format_reward --verifier_weight 1.0,0.5
Every key of the YAML can be given as --section.key=value; docs/config.md lists them all."""


@dataclass(frozen=True)
class Program:
    """Of `settings`, the class of the configuration, fields are the same in all programs."""

    name: str
    description: str
    examples: str
    settings: type[Config]
    problems: Callable[[Config, int, bool, bool], list[str]]

    def reads(self, key: str) -> bool:
        """Whether its runs read a setting."""
        return not issubclass(self.settings, StageConfig) or self.settings.reads(key)

    @property
    def is_grpo(self) -> bool:
        return self.settings is Config


def _stage(settings: type[StageConfig], description: str) -> Program:
    module, file = f"mindrlhf_lite.{settings.program}", f"{settings.program}.yaml"
    examples = f"""examples:
  python -m {module} --config {file}                                        (one rank)
  python -m {module} --config {file} --rl_config.max_steps=3 --rl_config.output_dir=output/try
  python -m {module} --config {file} --dry_run                              (check, print the plan, stop)
Several ranks: msrun as in examples/qwen_sft. docs/config.md lists all keys."""
    return Program(f"python -m {module}", description, examples, settings, stage_problems)


GRPO = Program("main.py", "GRPO training.", _EXAMPLES, Config, find_problems)
SFT = _stage(StageConfig, "Supervised training on conversations, or on prompts with answers.")
DPO = _stage(PreferenceStageConfig, "Training on pairs of a chosen and a rejected answer: dpo, ipo, simpo or kto.")
REWARD_MODEL = _stage(RewardModelConfig, "Training of a reward model on pairs of a chosen and a rejected answer.")
