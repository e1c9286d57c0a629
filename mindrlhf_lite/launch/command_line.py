"""The command line of main.py as a validated Command: every mistake in options, files and settings together."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from mindrlhf_lite.config.aliases.translation import Translation
from mindrlhf_lite.config.load import ConfigError, collect
from mindrlhf_lite.config.memory_plan import ASCEND_MEMORY_GIB
from mindrlhf_lite.config.micro_batches import with_micro_batches
from mindrlhf_lite.config.model_file import shape_of_actor
from mindrlhf_lite.config.roles import ACTOR
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import dims_of, without_degrees
from mindrlhf_lite.config.vllm_versions import version_notes
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.estimate.devices import DEVICES, Device, known_device, read_device
from mindrlhf_lite.launch.arguments import parser_of_main
from mindrlhf_lite.launch.program import GRPO, Program
from mindrlhf_lite.launch.read_settings import read_settings
from mindrlhf_lite.observe.host import memory_limit_gb
from mindrlhf_lite.parallel.mesh import launched_world_size

_MOST_DEVICES = 4096  # that a plan is proposed for


@dataclass(frozen=True)
class Command:
    """What the command line asks for. `num_ranks`: of msrun, or of --devices for a plan."""

    config: Config
    num_ranks: int
    is_dry_run: bool = False
    compiles: bool = False
    only_saves_strategy: bool = False
    device_memory_gb: float = 0.0
    device: Device = DEVICES["910B"]  # whose figures estimates stand on
    search_file: str = ""  # where the best layout found is written
    absent: dict[str, Any] = field(default_factory=dict)  # settings of files that are not here, and so not in the plan
    host_memory_gb: float = 0.0
    notes: tuple[str, ...] = ()  # what is worth saying and no mistake
    recipe: tuple[str, ...] = ()  # of --preset, a line a setting


def parse_command_line(arguments: Sequence[str], needs_prompts: bool = True, program: Program = GRPO) -> Command:
    """The validated command.

    Args: needs_prompts: whether there must be a file of prompts.

    Raises:
        ConfigError: every problem found, together.
    """
    known, rest = parser_of_main(program).parse_known_args(arguments)
    num_ranks = known.devices or launched_world_size()
    settings = read_settings(known, rest, num_ranks, program.reads)
    config, problems = collect(settings.values)
    config = program.settings(**vars(config))
    problems = list(dict.fromkeys([*settings.problems, *problems]))
    rejected = [line.partition("=")[0] for line in problems]  # their defaults stand in: not the user's
    missing = _missing_model(config) if known.dry_run else ""
    given = config
    config, is_plan, absent = _without_absent_files(config, known.dry_run)
    is_plan = is_plan or bool(missing) or settings.has_lost_model or known.only_save_strategy
    # a search replaces the degrees, whatever they are
    checked, ranks = (without_degrees(config), 1) if known.search else (config, num_ranks)
    found = program.problems(checked, ranks, is_plan, needs_prompts)
    problems += [missing] if missing else []
    problems += [line for line in found if line.partition("=")[0] not in rejected]
    problems += _flag_problems(known)
    if problems:
        hint = _devices_hint(config, known, num_ranks)
        raise ConfigError([_with_their_names(line + hint(line), settings.translation) for line in problems])
    return Command(
        config if known.search else _with_micro_batches(config, num_ranks, known.device_memory_gb),
        num_ranks,
        known.dry_run,
        known.compile,
        known.only_save_strategy,
        known.device_memory_gb,
        _device(config, known.device_table),
        known.search or "",
        _left_out(given, config),
        known.host_memory_gb,
        (*settings.notes, *absent, *version_notes(config)),
        settings.recipe,
    )


def _with_micro_batches(config: Config, num_ranks: int, device_memory_gb: float) -> Config:
    if config.actor_config.load or config.actor_config.model_config:
        rank_gib = _memory_of_a_rank(config, num_ranks, device_memory_gb)
        return with_micro_batches(config, shape_of_actor(config), num_ranks, rank_gib)
    return config


def _device(config: Config, table: str | None) -> Device:
    """Raises ConfigError where the table cannot be read, or is one of another kind of device."""
    target = config.context.device_target
    try:
        device = read_device(table) if table else known_device(target)
    except UserError as error:
        raise ConfigError([f"--device_table {error}"]) from None
    if device.overlaps == (target == "CPU"):
        raise ConfigError([f"--device_table {table}: of {device.name}; context.device_target is {target}"])
    return device


def _flag_problems(known: argparse.Namespace) -> list[str]:
    problems = []
    if known.search and not known.dry_run:
        problems.append("--search: only with --dry_run, and --devices for other than the ranks that run")
    if known.search and known.compile:
        problems.append("--search: without --compile; compile the plan that it writes")
    if known.search and Path(known.search).exists():
        problems.append(f"--search {known.search}: is there already; give another name, or remove it")
    elif known.search and not os.access(Path(known.search).parent, os.W_OK):
        problems.append(f"--search {known.search}: its folder is not there, or not writable")
    if known.host_memory_gb and not known.search:
        problems.append("--host_memory_gb: only with --search")
    for name in ("host_memory_gb", "device_memory_gb"):
        if getattr(known, name) < 0:
            problems.append(f"--{name} {getattr(known, name):g}: must not be negative")
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


def _devices_hint(config: Config, known: argparse.Namespace, num_ranks: int) -> Callable[[str], str]:
    """A function of a problem: where it is about the number of ranks of a plan, the number that would fit."""
    degrees = [role.section_of(config).parallel_config for role in config.roles]

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
    without: dict[str, Any] = {"actor_config": actor}
    for role in (role for role in config.roles if role.section in vars(config)):
        section = role.section_of(config)
        is_absent = role.starts_from_actor or not Path(section.load).exists()
        if role is not ACTOR and section.load and is_absent:
            without[role.section] = replace(section, load="")
    return replace(config, **without), True, notes


def _left_out(given: Config, config: Config) -> dict[str, Any]:
    """Model folders of `given` that `config` has no more, by key."""
    keys = [f"{role.section}.load" for role in given.roles if role.section_of(given).load]
    return {key: attrgetter(key)(given) for key in keys if not attrgetter(key)(config)}


def _memory_of_a_rank(config: Config, num_ranks: int, device_memory_gb: float) -> float:
    """GiB that a rank can have."""
    if config.context.device_target != "CPU":
        return device_memory_gb or ASCEND_MEMORY_GIB
    return device_memory_gb or memory_limit_gb() / ranks_of_this_host(num_ranks)


def ranks_of_this_host(num_ranks: int) -> int:
    return int(os.environ.get("LOCAL_RANKS") or num_ranks)
