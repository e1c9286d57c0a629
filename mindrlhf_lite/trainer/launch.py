"""The command line of main.py: configuration first, process groups only after it is valid, errors with their rank."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from mindrlhf_lite.cli import USER_ERROR, fail
from mindrlhf_lite.config.load import FLAGS, ConfigError, collect, parse_overrides, read_yaml
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.validate import find_problems
from mindrlhf_lite.parallel.mesh import launched_rank, launched_world_size

EXAMPLES = """examples:
  msrun --worker_num=2 --local_worker_num=2 --join=True examples/qwen_grpo/main.py --config grpo_config.yaml
  python examples/qwen_grpo/main.py --config grpo_config.yaml --rl_config.max_steps=3      (one rank, no msrun)
  python examples/qwen_grpo/main.py --config grpo_config.yaml --dry_run                    (check, print the plan, stop)
  ... main.py --config grpo_config.yaml --verifier_function accuracy_reward,format_reward --verifier_weight 1.0,0.5
Every key of the YAML can be given as --section.key=value; docs/config.md lists them all."""


def parse_command_line(arguments: Sequence[str]) -> tuple[Config, bool]:
    """(validated Config, whether --dry_run was given).

    Raises:
        ConfigError: every problem found, together.
    """
    parser = argparse.ArgumentParser(
        prog="main.py", description="GRPO training.", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument("--dry_run", action="store_true", help="check the configuration, print what the run would be, and stop")
    parser.add_argument("--resume_training", nargs="?", const="true", metavar="true|false", help="continue from the newest complete checkpoint")
    for flag, key in FLAGS.items():
        parser.add_argument(f"--{flag}", help=f"short for --{key}=VALUE")
    known, rest = parser.parse_known_args(arguments)
    values = read_yaml(known.config)
    given = [f"--{FLAGS[flag]}={getattr(known, flag)}" for flag in FLAGS if getattr(known, flag) is not None]
    if known.resume_training is not None:
        given.append(f"--rl_config.resume_training={known.resume_training}")
    values.update(parse_overrides([*given, *rest]))
    config, problems = collect(values)
    rejected = [line.partition("=")[0] for line in problems]  # their defaults stand in: what is said about those is not the user's
    problems += [line for line in find_problems(config, launched_world_size()) if line.partition("=")[0] not in rejected]
    if problems:
        raise ConfigError(problems)
    return config, known.dry_run


def describe(config: Config) -> str:
    """What the run would be: sizes of a step, and memory of every role on each rank."""
    from mindrlhf_lite.models.model_config import ModelConfig
    from mindrlhf_lite.models.parameters import count_parameters

    shape, rl, world_size = ModelConfig.from_dir(config.actor_config.load), config.rl_config, launched_world_size()
    weights = 4 * count_parameters(shape)
    cache = 2 * 4 * config.generate_config.max_num_seqs * rl.seq_length * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    plan = {
        "actor weights": weights,
        "gradients": weights,
        "optimizer state": 2 * weights,
        "reference": weights if rl.beta > 0 else 0,
        "rollout weights": weights,
        "KV cache": cache,
    }
    lines = [
        f"model: {count_parameters(shape):,} parameters (float32)",
        f"ranks: {world_size}, data parallel",
        f"a step: {config.prompts_per_step} prompts x {rl.num_generations} completions = {config.completions_per_step} sequences, {config.updates_per_step} update(s)",
        "memory a rank, without activations:",
        *(f"  {name:<16} {size / 2**30:8.3f} GiB" for name, size in plan.items()),
        f"  {'total':<16} {sum(plan.values()) / 2**30:8.3f} GiB",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs main.py. Exit codes: 0 done, 1 the run failed, 2 the user's configuration or data is wrong."""
    rank = launched_rank()
    try:
        config, is_dry_run = parse_command_line(sys.argv[1:] if arguments is None else arguments)
    except ConfigError as error:
        if rank == 0:
            fail(str(error))
        sys.exit(USER_ERROR)
    if is_dry_run:
        print(describe(config))
        return
    try:
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
