"""The options of main.py, and their --help."""

from __future__ import annotations

import argparse
from typing import NoReturn

from mindrlhf_lite.config.load import FLAGS, ConfigError
from mindrlhf_lite.config.presets import PRESETS

EXAMPLES = """examples:
  msrun --worker_num=2 --local_worker_num=2 --join=True examples/qwen_grpo/main.py --config grpo_config.yaml
  python examples/qwen_grpo/main.py --config grpo_config.yaml --rl_config.max_steps=3      (one rank, no msrun)
  python examples/qwen_grpo/main.py --config grpo_config.yaml --dry_run                    (check, print the plan, stop)
  ... main.py --config grpo_config.yaml --model_config model_configs/qwen2_5_7b.yaml --dry_run --devices 8 \\
      --device_memory_gb 64 --compile
  ... main.py --config grpo_config.yaml --preset dapo --rl_config.epsilon_high=0.3
  ... main.py --config grpo_config.yaml --verifier_function accuracy_reward,format_reward --verifier_weight 1.0,0.5
Every key of the YAML can be given as --section.key=value; docs/config.md lists them all."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """What is wrong with the options is said like what is wrong with settings: by one rank, and once."""
        raise ConfigError([f"{message} (--help lists the options)"])


def parser_of_main() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="main.py",
        description="GRPO training.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument(
        "--preset",
        help=f"a recipe, {', '.join(PRESETS)}: the file's settings of the objective give way to it and to defaults; "
        "keys of the command line replace both (--dry_run prints it)",
    )
    _add_dry_run(parser)
    parser.add_argument(
        "--only_save_strategy",
        action="store_true",
        help="write the actor's parallel strategy to OUTPUT/strategy.json, for tools/transform_checkpoint.py, and stop",
    )
    parser.add_argument(
        "--resume_training",
        nargs="?",
        const="true",
        metavar="true|false",
        help="continue from the newest complete checkpoint",
    )
    for flag, key in FLAGS.items():
        parser.add_argument(f"--{flag}", help=f"short for --{key}=VALUE")
    return parser


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    """What looks at a run and starts none."""
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check the configuration, print the run's sizes and memory plan, and stop",
    )
    parser.add_argument(
        "--devices",
        type=int,
        help="with --dry_run or --only_save_strategy: for N devices instead of the ranks that msrun starts",
    )
    parser.add_argument(
        "--device_memory_gb",
        type=float,
        default=0.0,
        help="with --dry_run: say which phases exceed this many GiB a device; exit code 1 if the run would",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="with --dry_run: also compile every phase of a step for Ascend, without one, and say what memory it takes "
        "and which operators have no kernel there (minutes; needs gcc and binutils, or CANN)",
    )
