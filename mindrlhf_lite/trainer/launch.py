"""The command line of main.py: configuration first, process groups only after it is valid, errors with their rank."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mindrlhf_lite.checkpoint.strategies import strategy_to_json
from mindrlhf_lite.cli import USER_ERROR, fail, leave_torch_out
from mindrlhf_lite.config.load import FLAGS, ConfigError, collect, parse_overrides, read_yaml
from mindrlhf_lite.config.memory_plan import memory_plan
from mindrlhf_lite.config.model_file import read_model_file
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.config.validate import find_problems
from mindrlhf_lite.models.parameters import count_parameters
from mindrlhf_lite.parallel.mesh import launched_rank, launched_world_size

EXAMPLES = """examples:
  msrun --worker_num=2 --local_worker_num=2 --join=True examples/qwen_grpo/main.py --config grpo_config.yaml
  python examples/qwen_grpo/main.py --config grpo_config.yaml --rl_config.max_steps=3      (one rank, no msrun)
  python examples/qwen_grpo/main.py --config grpo_config.yaml --dry_run                    (check, print the plan, stop)
  ... main.py --config grpo_config.yaml --model_config model_configs/qwen2_5_7b.yaml --dry_run --devices 8 --device_memory_gb 64
  ... main.py --config grpo_config.yaml --verifier_function accuracy_reward,format_reward --verifier_weight 1.0,0.5
Every key of the YAML can be given as --section.key=value; docs/config.md lists them all."""


@dataclass(frozen=True)
class Command:
    """What the command line asks for. `num_ranks`: of msrun, or of --devices for a plan."""

    config: Config
    num_ranks: int
    is_dry_run: bool = False
    only_saves_strategy: bool = False
    device_memory_gb: float = 0.0


def parse_command_line(arguments: Sequence[str]) -> Command:
    """The validated command.

    Raises:
        ConfigError: every problem found, together.
    """
    parser = argparse.ArgumentParser(
        prog="main.py", description="GRPO training.", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument("--dry_run", action="store_true", help="check the configuration, print the run's sizes and memory plan, and stop")
    parser.add_argument("--devices", type=int, help="with --dry_run: plan for N devices instead of the ranks that msrun starts")
    parser.add_argument("--device_memory_gb", type=float, default=0.0, help="with --dry_run: say which phases exceed this many GiB a device")
    parser.add_argument(
        "--only_save_strategy",
        action="store_true",
        help="write the actor's parallel strategy to OUTPUT/strategy.json, for tools/transform_checkpoint.py, and stop",
    )
    parser.add_argument("--resume_training", nargs="?", const="true", metavar="true|false", help="continue from the newest complete checkpoint")
    for flag, key in FLAGS.items():
        parser.add_argument(f"--{flag}", help=f"short for --{key}=VALUE")
    known, rest = parser.parse_known_args(arguments)
    num_ranks = known.devices or launched_world_size()
    values = read_yaml(known.config)
    given = [f"--{FLAGS[flag]}={getattr(known, flag)}" for flag in FLAGS if getattr(known, flag) is not None]
    if known.resume_training is not None:
        given.append(f"--rl_config.resume_training={known.resume_training}")
    overrides = parse_overrides([*given, *rest])
    values.update(_proposed_strategies(overrides.get("actor_config.model_config") or values.get("actor_config.model_config"), num_ranks))
    values.update(overrides)
    config, problems = collect(values)
    rejected = [line.partition("=")[0] for line in problems]  # their defaults stand in: what is said about those is not the user's
    is_plan = known.dry_run and bool(config.actor_config.model_config) and not config.actor_config.load
    found = find_problems(config, num_ranks, is_plan or known.only_save_strategy)
    problems += [line for line in found if line.partition("=")[0] not in rejected]
    if known.devices is not None and (known.devices < 1 or not known.dry_run):
        problems.append(f"--devices {known.devices}: a positive number, and only with --dry_run")
    if problems:
        raise ConfigError(problems)
    return Command(config, num_ranks, known.dry_run, known.only_save_strategy, known.device_memory_gb)


def _proposed_strategies(path: str | None, num_ranks: int) -> dict[str, Any]:
    """What a model file proposes for this number of ranks; nothing where it proposes nothing."""
    if not path:
        return {}
    try:
        return read_model_file(path).strategies.get(num_ranks, {})
    except ValueError as error:
        raise ConfigError([f"actor_config.{error}"]) from None


def describe(command: Command) -> str:
    """What the run would be: sizes of a step, strategies, and memory of the fullest rank by group and phase."""
    config, rl = command.config, command.config.rl_config
    shape = read_model_file(config.actor_config.load or config.actor_config.model_config).shape
    strategies, plan = role_strategies(config, command.num_ranks), memory_plan(config, shape, command.num_ranks)

    def gib(size: int) -> str:
        return f"{size / 2**30:9.3f} GiB"

    def verdict(size: int) -> str:
        return (
            ""
            if not command.device_memory_gb
            else "  fits"
            if size <= command.device_memory_gb * 2**30
            else f"  DOES NOT FIT in {command.device_memory_gb:g} GiB"
        )

    lines = [
        f"model: {count_parameters(shape):,} parameters (float32)",
        f"ranks: {command.num_ranks}; actor {strategies.actor.dims.describe()}, reference {strategies.reference.dims.describe()}, rollout {strategies.rollout.dims.describe()}",
        f"a step: {config.prompts_per_step} prompts x {rl.num_generations} completions = {config.completions_per_step} sequences, {config.updates_per_step} update(s)",
        "memory of the fullest rank:",
        *(f"  {name:<12} {gib(size)}" for name, size in plan.groups.items()),
        "by phase, with swapping (activations estimated):",
        *(f"  {name:<12} {gib(size)}{verdict(size)}" for name, size in plan.phases.items()),
        f"  {'peak':<12} {gib(plan.with_swap)}{verdict(plan.with_swap)}" + ("" if rl.swap else "   (rl_config.swap is off)"),
        f"without swapping {gib(plan.without_swap)}{verdict(plan.without_swap)}" + ("   (rl_config.swap is on)" if rl.swap else ""),
    ]
    return "\n".join(lines)


def save_strategy(command: Command) -> Path:
    """Writes OUTPUT/strategy.json: how the actor's checkpoint lies on the ranks."""
    actor = command.config.actor_config
    strategy = role_strategies(command.config, command.num_ranks).actor
    strategy = replace(strategy, splits_data=actor.enable_parallel_optimizer and strategy.dims.data > 1)
    path = Path(command.config.rl_config.output_dir) / "strategy.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(strategy_to_json(strategy), indent=1) + "\n")
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs main.py. Exit codes: 0 done, 1 the run failed, 2 the user's configuration or data is wrong."""
    rank = launched_rank()
    try:
        command = parse_command_line(sys.argv[1:] if arguments is None else arguments)
    except ConfigError as error:
        if rank == 0:
            fail(str(error))
        sys.exit(USER_ERROR)
    config = command.config
    if command.is_dry_run:
        print(describe(command))
        return
    try:
        if command.only_saves_strategy:
            if rank == 0:
                print(f"wrote {save_strategy(command)}")
            return
        if not config.generate_config.use_vllm:
            leave_torch_out()
        from mindrlhf_lite.parallel.mesh import Mesh
        from mindrlhf_lite.trainer.grpo import GrpoTrainer

        GrpoTrainer(config, Mesh(config.context.device_target, config.context.num_threads)).train()
    except (ValueError, FloatingPointError, OSError) as error:
        _stop(f"rank {rank}: {error}", USER_ERROR if isinstance(error, ValueError) else 1)
    except KeyboardInterrupt:
        _stop(f"rank {rank}: interrupted", 130)
    except Exception:
        _stop(f"rank {rank}: unexpected error\n{traceback.format_exc()}", 1)


def _stop(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    # peers may be waiting in a collective: a normal interpreter exit would join MindSpore's threads and wait with them
    os._exit(code)
