"""The options of main.py, and their --help."""

from __future__ import annotations

import argparse
from typing import NoReturn

from mindrlhf_lite.config.load import FLAGS, ConfigError
from mindrlhf_lite.config.presets import PRESETS
from mindrlhf_lite.launch.program import GRPO, Program


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """What is wrong with the options is said like what is wrong with settings: by one rank, and once."""
        raise ConfigError([f"{message} (--help lists the options)"])


def parser_of_main(program: Program = GRPO) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program.name,
        description=program.description,
        epilog=program.examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="YAML file")
    parser.set_defaults(preset=None, search=None, host_memory_gb=0.0, device_table=None)
    if program.is_grpo:
        _add_presets(parser)
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
        # hidden where it is not read; who gives it is told so
        text = f"short for --{key}=VALUE" if program.reads(key) else argparse.SUPPRESS
        parser.add_argument(f"--{flag}", help=text)
    return parser


def _add_presets(parser: argparse.ArgumentParser) -> None:
    """Whole recipes."""
    parser.add_argument(
        "--preset",
        help=f"a recipe, {', '.join(PRESETS)}: the file's settings of the objective give way to it and to defaults; "
        "keys of the command line replace both (--dry_run prints it)",
    )
    parser.add_argument(
        "--search",
        nargs="?",
        const="searched.yaml",
        metavar="FILE",
        help="with --dry_run: instead of the given degrees, find those of every role, micro-batches, recomputation, "
        "offloading and swapping with the shortest steps of all that fit; write the best as a configuration (default: "
        "searched.yaml)",
    )
    parser.add_argument(
        "--host_memory_gb",
        type=float,
        default=0.0,
        help="with --search: GiB of a host of 8 devices for what is swapped out (default: enough)",
    )
    parser.add_argument(
        "--device_table",
        metavar="FILE",
        help="with --dry_run: figures of a device by tools/calibrate.py (default: published ones of 910B, or a CPU's)",
    )


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
