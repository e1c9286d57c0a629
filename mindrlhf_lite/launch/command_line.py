"""The command line of main.py as a validated Command: the YAML, a preset and --section.key=value, every mistake in them
together.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from mindrlhf_lite.config.aliases.toolkits import translate
from mindrlhf_lite.config.aliases.translation import Translation
from mindrlhf_lite.config.load import FLAGS, ConfigError, collect, parse_overrides, read_yaml, without_effect
from mindrlhf_lite.config.micro_batches import with_micro_batches
from mindrlhf_lite.config.model_file import beside, read_model_file, with_types_of_models
from mindrlhf_lite.config.presets import PRESETS, preset_settings, without_objective
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import dims_of
from mindrlhf_lite.config.validate import find_problems
from mindrlhf_lite.observe.host import memory_limit_gb
from mindrlhf_lite.parallel.mesh import launched_world_size

_ASCEND_MEMORY_GB = 64.0  # of a 910B, where --device_memory_gb does not say otherwise
_MOST_DEVICES = 4096  # that a plan is proposed for

EXAMPLES = """examples:
  msrun --worker_num=2 --local_worker_num=2 --join=True examples/qwen_grpo/main.py --config grpo_config.yaml
  python examples/qwen_grpo/main.py --config grpo_config.yaml --rl_config.max_steps=3      (one rank, no msrun)
  python examples/qwen_grpo/main.py --config grpo_config.yaml --dry_run                    (check, print the plan, stop)
  ... main.py --config grpo_config.yaml --model_config model_configs/qwen2_5_7b.yaml --dry_run --devices 8 \\
      --device_memory_gb 64 --compile
  ... main.py --config grpo_config.yaml --preset dapo --rl_config.epsilon_high=0.3
  ... main.py --config grpo_config.yaml --verifier_function accuracy_reward,format_reward --verifier_weight 1.0,0.5
Every key of the YAML can be given as --section.key=value; docs/config.md lists them all."""


@dataclass(frozen=True)
class Command:
    """What the command line asks for. `num_ranks`: of msrun, or of --devices for a plan."""

    config: Config
    num_ranks: int
    is_dry_run: bool = False
    compiles: bool = False
    only_saves_strategy: bool = False
    device_memory_gb: float = 0.0
    notes: tuple[str, ...] = ()  # what is worth saying and no mistake
    recipe: tuple[str, ...] = ()  # of --preset, a line a setting


def parse_command_line(arguments: Sequence[str], needs_prompts: bool = True) -> Command:
    """The validated command.

    Args: needs_prompts: whether there must be a file of prompts.

    Raises:
        ConfigError: every problem found, together.
    """
    known, rest = _parser().parse_known_args(arguments)
    num_ranks = known.devices or launched_world_size()
    settings = _read(known, rest, num_ranks)
    config, problems = collect(settings.values)
    problems = list(dict.fromkeys([*settings.problems, *problems]))
    rejected = [line.partition("=")[0] for line in problems]  # their defaults stand in: not the user's
    missing = _missing_model(config) if known.dry_run else ""
    config, is_plan, absent = _without_absent_files(config, known.dry_run)
    is_plan = is_plan or bool(missing) or settings.has_lost_model or known.only_save_strategy
    found = find_problems(config, num_ranks, is_plan, needs_prompts)
    problems += [missing] if missing else []
    problems += [line for line in found if line.partition("=")[0] not in rejected]
    problems += _flag_problems(known)
    if problems:
        hint = _devices_hint(config, known, num_ranks)
        raise ConfigError([_with_their_names(line + hint(line), settings.translation) for line in problems])
    if path := config.actor_config.load or config.actor_config.model_config:
        rank_gib = _memory_of_a_rank(config, num_ranks, known.device_memory_gb)
        config = with_micro_batches(config, read_model_file(path).shape, num_ranks, rank_gib)
    return Command(
        config,
        num_ranks,
        known.dry_run,
        known.compile,
        known.only_save_strategy,
        known.device_memory_gb,
        (*settings.notes, *absent),
        settings.recipe,
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """What is wrong with the options is said like what is wrong with settings: by one rank, and once."""
        raise ConfigError([f"{message} (--help lists the options)"])


def _parser() -> argparse.ArgumentParser:
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


@dataclass
class _Settings:
    """Ours, by full dotted key, and what was found on the way to them."""

    values: dict[str, Any]
    translation: Translation | None = None  # of another toolkit's file
    problems: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()
    has_lost_model: bool = False  # a plan by a model file that cannot be read


def _read(known: argparse.Namespace, rest: Sequence[str], num_ranks: int) -> _Settings:
    """The file's settings, replaced by a preset's, a model file's and the command line's."""
    values, notes = beside(read_yaml(known.config), known.config)
    preset: dict[str, Any] = {}
    if known.preset is not None:
        preset = preset_settings(known.preset)
        values = {**without_objective(values), **preset}
    given = [f"--{FLAGS[flag]}={getattr(known, flag)}" for flag in FLAGS if getattr(known, flag) is not None]
    if known.resume_training is not None:
        given.append(f"--rl_config.resume_training={known.resume_training}")
    overrides = parse_overrides([*given, *rest])
    translation = translate(values, known.config, overrides, num_ranks)
    problems: list[str] = []
    if translation is None:
        notes += [f"note: {line}" for line in without_effect(values)]
    elif translation.is_unreadable:
        raise ConfigError(translation.problems)
    else:
        problems = [*translation.problems, *collect(translation.values)[1]]
        values = translation.values
        overrides = {key: values[key] for key in overrides if key in values}
    model = overrides.get("actor_config.model_config") or values.get("actor_config.model_config")
    try:
        proposed, more = _proposed_strategies(model, num_ranks)
    except ConfigError as error:
        problems += error.problems
        values = {key: value for key, value in values.items() if key != "actor_config.model_config"}
        overrides = {key: value for key, value in overrides.items() if key != "actor_config.model_config"}
        proposed, more = {}, ()
    if translation is not None:
        notes = [f"note: {known.config}: {translation.summary()}", *notes]
        # there the configuration's own step and degrees count
        proposed = {
            key: value
            for key, value in proposed.items()
            if key not in values and ".parallel_config." not in key and not key.startswith("rl_config.")
        }
        values, absent = _without_absent_models(values) if known.dry_run else (values, ())
        notes += absent
    values = {**values, **proposed, **overrides}
    if known.compile:
        values["context.device_target"] = "Ascend"
    try:
        values = with_types_of_models(values)
    except ValueError as error:
        problems.append(str(error))
    recipe = [
        f"  {key}: {overrides.get(key, value)}" + (f"   (instead of {value})" if key in overrides else "")
        for key, value in preset.items()
    ]
    shown = (f"preset {known.preset}:", *recipe) if preset else ()
    has_lost_model = known.dry_run and bool(model) and "actor_config.model_config" not in values
    return _Settings(values, translation, problems, (*notes, *more), shown, has_lost_model)


def _flag_problems(known: argparse.Namespace) -> list[str]:
    problems = []
    if known.devices is not None and (known.devices < 1 or not (known.dry_run or known.only_save_strategy)):
        problems.append(
            f"--devices {known.devices}: a positive number, and only with --dry_run or --only_save_strategy"
        )
    if known.compile and not known.dry_run:
        problems.append("--compile: only with --dry_run")
    return problems


def _missing_model(config: Config) -> str:
    """Of a plan whose model is not on this host, what is missing."""
    actor = config.actor_config
    if not actor.load or actor.model_config or Path(actor.load).exists():
        return ""
    return (
        f"actor_config.load={actor.load!r}: not on this host; for a plan without it give --model_config FILE "
        "(model_configs/*.yaml, the model's own YAML, or a folder with its config.json)"
    )


def _devices_hint(config: Config, known: argparse.Namespace, num_ranks: int) -> Any:
    """A function of a problem: where it is about the number of ranks of a plan, the number that would fit."""
    sections = (config.actor_config, config.ref_config, config.generate_config)
    degrees = [section.parallel_config for section in sections]

    def fits(count: int) -> bool:
        return all(dims_of(each, count).problem(count) is None for each in degrees)

    wanted = next((count for count in range(1, _MOST_DEVICES) if fits(count)), 0) if known.dry_run else 0

    def hint(problem: str) -> str:
        if not wanted or f"but {num_ranks} rank(s) are running" not in problem:
            return ""
        return f"; for a plan of these degrees: --dry_run --devices {wanted}"

    return hint


def _with_their_names(problem: str, translation: Translation | None) -> str:
    """A problem about settings of ours, with the names that the user's file has for them."""
    if translation is None:
        return problem
    key = problem.partition("=")[0].partition(":")[0]
    theirs = [name for ours, name in translation.origins.items() if ours == key or f"{ours}=" in problem]
    names = ", ".join(dict.fromkeys(theirs))
    return f"{problem} (in the file: {names})" if names else problem


def _without_absent_models(values: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the settings without model files of reference and rollout that are not on this host, notes)."""
    absent = [
        key
        for key in ("ref_config.model_config", "generate_config.model_config")
        if values.get(key) and not Path(str(values[key])).exists()
    ]
    notes = tuple(f"note: {key}={values[key]!r} is not on this host: its types are not known" for key in absent)
    return {key: value for key, value in values.items() if key not in absent}, notes


def _without_absent_files(config: Config, is_dry_run: bool) -> tuple[Config, bool, tuple[str, ...]]:
    """(the configuration, whether it is a plan that needs no files, notes): a dry run with a model_config needs no
    weights, and so none that are not on this host.
    """
    actor = config.actor_config
    notes: tuple[str, ...] = ()
    if not (is_dry_run and actor.model_config):
        return config, False, ()
    if actor.load and not Path(actor.load).exists():
        notes = (f"note: actor_config.load={actor.load!r} is not on this host: a plan by model_config alone",)
        actor = replace(actor, load="")
    if actor.load:
        return config, False, ()
    ref = config.ref_config
    if ref.load and not Path(ref.load).exists():
        ref = replace(ref, load="")
    generate = replace(config.generate_config, load="")
    return replace(config, actor_config=actor, ref_config=ref, generate_config=generate), True, notes


def _memory_of_a_rank(config: Config, num_ranks: int, device_memory_gb: float) -> float:
    """GiB that a rank can have."""
    if config.context.device_target != "CPU":
        return device_memory_gb or _ASCEND_MEMORY_GB
    return device_memory_gb or memory_limit_gb() / ranks_of_this_host(num_ranks)


def ranks_of_this_host(num_ranks: int) -> int:
    return int(os.environ.get("LOCAL_RANKS") or num_ranks)


def _proposed_strategies(path: str | None, num_ranks: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(what a model file proposes for this number of ranks, what to say if it proposes nothing for it)."""
    if not path:
        return {}, ()
    try:
        strategies = read_model_file(path).strategies
    except ValueError as error:
        raise ConfigError([f"actor_config.{error}".replace("model_config ", "model_config=", 1)]) from None
    if num_ranks in strategies or not strategies:
        return strategies.get(num_ranks, {}), ()
    there = ", ".join(map(str, sorted(strategies)))
    return {}, (
        f"note: {path} has strategies for {there} devices, none for {num_ranks}: the configuration's own (or "
        "data parallelism) are used",
    )
