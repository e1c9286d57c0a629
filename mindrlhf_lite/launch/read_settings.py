"""From the options of main.py to settings by full dotted key: the file's, replaced by a preset's, a model file's and
the command line's, in this order. Every step adds to one list of problems.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindrlhf_lite.config.aliases.toolkits import read_configuration, translate
from mindrlhf_lite.config.aliases.translation import Translation
from mindrlhf_lite.config.load import FLAGS, ConfigError, collect, parse_overrides, without_effect
from mindrlhf_lite.config.model_file import beside, read_model_file, with_types_of_models
from mindrlhf_lite.config.presets import preset_settings, without_objective
from mindrlhf_lite.config.roles import ACTOR, ROLES

_MODEL, _TAKES = "actor_config.model_config", "actor_config.takes_strategies"


@dataclass
class Settings:
    """What the steps have found so far."""

    values: dict[str, Any]
    overrides: dict[str, Any] = field(default_factory=dict)  # of the command line
    translation: Translation | None = None  # of another toolkit's file
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recipe: tuple[str, ...] = ()
    has_lost_model: bool = False  # a plan by a model file that cannot be read


def read_settings(
    known: argparse.Namespace, rest: Sequence[str], num_ranks: int, reads: Callable[[str], bool]
) -> Settings:
    """Args: known, rest: the options, and those of single settings; reads: whether the program reads a setting."""
    given, rest = read_configuration(known.config, rest)
    values, notes = beside(given, known.config)
    settings = Settings(values, notes=list(notes))
    preset = {} if known.preset is None else preset_settings(known.preset)
    if preset:
        settings.values = {**without_objective(values), **preset}
    settings.overrides = parse_overrides([*_as_settings(known), *rest])
    _translate(settings, known.config, num_ranks)
    _propose_strategies(settings, known, num_ranks, reads)
    if known.compile:
        settings.values["context.device_target"] = "Ascend"
    try:
        settings.values = with_types_of_models(settings.values)
    except ValueError as error:
        settings.problems.append(str(error))
    if preset:
        settings.recipe = (f"preset {known.preset}:", *_recipe(preset, settings.overrides))
    return settings


def _as_settings(known: argparse.Namespace) -> list[str]:
    """The short flags, written out."""
    given = [f"--{FLAGS[flag]}={getattr(known, flag)}" for flag in FLAGS if getattr(known, flag) is not None]
    if known.resume_training is not None:
        given.append(f"--rl_config.resume_training={known.resume_training}")
    return given


def _translate(settings: Settings, path: str, num_ranks: int) -> None:
    """Settings of another toolkit's file, in ours."""
    translation = translate(settings.values, path, settings.overrides, num_ranks)
    if translation is None:
        settings.notes += [f"note: {line}" for line in without_effect(settings.values)]
        return
    settings.translation, settings.values = translation, translation.values
    settings.problems += [*translation.problems, *collect(translation.values)[1]]
    settings.overrides = {key: translation.values[key] for key in settings.overrides if key in translation.values}


def _propose_strategies(
    settings: Settings, known: argparse.Namespace, num_ranks: int, reads: Callable[[str], bool]
) -> None:
    """What a model file proposes for this number of ranks replaces the file's, and the command line replaces both."""
    values, overrides, notes = settings.values, settings.overrides, settings.notes
    model = overrides.get(_MODEL) or values.get(_MODEL)
    proposed: dict[str, Any] = {}
    more: tuple[str, ...] = ()
    try:
        proposed, more = _proposed_by(model, num_ranks)
        proposed = {key: value for key, value in proposed.items() if reads(key)}
    except ConfigError as error:
        settings.problems += error.problems
        values, overrides = ({key: each[key] for key in each if key != _MODEL} for each in (values, overrides))
        settings.has_lost_model = known.dry_run
    takes = {key: value for key, value in {**values, **overrides}.items() if key == _TAKES}
    if not collect(takes)[0].actor_config.takes_strategies:
        proposed, more = {}, ()
    if settings.translation is not None:
        notes = [f"note: {known.config}: {settings.translation.summary()}", *notes]
        # there the configuration's own step and degrees count
        proposed = {
            key: value
            for key, value in proposed.items()
            if key not in values and ".parallel_config." not in key and not key.startswith("rl_config.")
        }
        values, absent = _without_absent_models(values) if known.dry_run else (values, ())
        notes += absent
    settings.values, settings.overrides = {**values, **proposed, **overrides}, overrides
    settings.notes = [*notes, *more]


def _recipe(preset: dict[str, Any], overrides: dict[str, Any]) -> list[str]:
    return [
        f"  {key}: {overrides.get(key, value)}" + (f"   (instead of {value})" if key in overrides else "")
        for key, value in preset.items()
    ]


def _without_absent_models(values: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the settings without model files of other roles than the actor that are not on this host, notes)."""
    keys = [f"{role.section}.model_config" for role in ROLES if role is not ACTOR]
    absent = [key for key in keys if values.get(key) and not Path(str(values[key])).exists()]
    notes = tuple(f"note: {key}={values[key]!r} is not on this host: its types are not known" for key in absent)
    return {key: value for key, value in values.items() if key not in absent}, notes


def _proposed_by(path: str | None, num_ranks: int) -> tuple[dict[str, Any], tuple[str, ...]]:
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
