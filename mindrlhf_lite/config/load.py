"""YAML and command line to a validated Config; every problem is collected, none is repaired.

Unknown keys name the nearest known one, where one is near. A key of another toolkit that changes nothing is accepted, a
renamed one is taken under its name here, and the others say what replaces them (config/aliases).
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from mindrlhf_lite.commands.tool import nearest_flag
from mindrlhf_lite.config.aliases.tables import MINDRLHF, MINDSPEED_RL, find_row, table
from mindrlhf_lite.config.dotted import by_dotted_key
from mindrlhf_lite.config.roles import ROLES
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.setting import FLOAT_TYPES, Facts
from mindrlhf_lite.errors import UserError, short_repr
from mindrlhf_lite.files.strict_yaml import load_yaml, read_yaml_file
from mindrlhf_lite.files.text_file import check_is_name

# names of MindFormers' model files that are taken in the sections of the roles
_ROLES = tuple(role.section for role in ROLES)
_SYNONYMS = {f"{role}.param_init_type": f"{role}.param_dtype" for role in _ROLES}
_UNKNOWN_SHOWN = 50  # keys; each is compared with all that there are
_ALWAYS_FLOAT32 = ("layernorm_compute_type", "softmax_compute_type", "rotary_dtype")

# flags of main.py that are short names of settings
FLAGS = {
    "tokenizer_dir": "rl_config.tokenizer_dir",
    "dataset_file": "rl_config.dataset_file",
    "actor_checkpoint_path": "actor_config.load",
    "model_config": "actor_config.model_config",
    "ref_checkpoint_path": "ref_config.load",
    "generate_checkpoint_path": "generate_config.load",
    "save_checkpoint_dir": "actor_config.save",
    "verifier_function": "reward_config.verifier_function",
    "verifier_weight": "reward_config.verifier_weight",
    "tensorboard": "rl_config.tensorboard",
    "model_name": "rl_config.model_name",
    "tokenizer_type": "rl_config.tokenizer_type",
}


# flags of main.py that are no settings
OTHER_FLAGS = (
    *("config", "preset", "dry_run", "devices", "device_memory_gb", "compile", "only_save_strategy"),
    *("resume_training", "search", "host_memory_gb", "device_table"),
)


class ConfigError(UserError):
    """All problems of a configuration. `problems`: one line each, with key, value and fix."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__(
            f"{len(self.problems)} problem(s) in the configuration:\n"
            + "\n".join(f"  - {problem}" for problem in self.problems)
        )


def facts_of_settings() -> dict[str, Facts]:
    """What is known of every setting, by its full dotted key."""
    return {key: entry.metadata["facts"] for key, entry in known_keys().items()}


def known_keys() -> dict[str, dataclasses.Field]:
    """Every setting by its full dotted key."""
    return dict(_walk(Config, ""))


def _walk(section: type, prefix: str) -> list[tuple[str, dataclasses.Field]]:
    found, hints, own = [], get_type_hints(section), inspect.get_annotations(section)
    for entry in sorted(dataclasses.fields(section), key=lambda entry: entry.name not in own):  # inherited ones last
        if dataclasses.is_dataclass(hints[entry.name]):
            found += _walk(hints[entry.name], f"{prefix}{entry.name}.")
        else:
            found.append((prefix + entry.name, entry))
    return found


def setting_types() -> dict[str, Any]:
    """The type of every setting by its full dotted key."""

    def walk(section: type, prefix: str) -> dict[str, Any]:
        types = {}
        for name, hint in get_type_hints(section).items():
            types.update(
                walk(hint, f"{prefix}{name}.")
                if isinstance(hint, type) and dataclasses.is_dataclass(hint)
                else {prefix + name: hint}
            )
        return types

    return walk(Config, "")


def read_yaml(path: str) -> dict[str, Any]:
    """The file's settings by full dotted key.

    Raises:
        ConfigError: no file, or not a YAML mapping of sections.
    """
    if not Path(path).is_file():
        raise ConfigError([f"--config {path}: no such file"])
    try:
        values = read_yaml_file(path)
    except UserError as error:
        raise ConfigError([str(error)]) from None
    if not isinstance(values, dict):
        raise ConfigError([f"{path}: a mapping of sections is needed (rl_config:, actor_config:, ...)"])
    return by_dotted_key(values)


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`--section.key=value` (or `section.key=value`, or with the value as the next word), values in YAML syntax; lists
    also as a,b.
    """
    overrides: dict[str, Any] = {}
    types, problems, index = setting_types(), [], 0
    while index < len(arguments):
        key, has_value, text = arguments[index].lstrip("-").partition("=")
        index += 1
        if not has_value:
            if index == len(arguments) or arguments[index].startswith("--"):
                near = "" if key in types else nearest_flag([key], _every_flag())
                problems.append(
                    _unknown_flag(key, near) if near else f"--{key}: a value is missing; write --{key}=VALUE"
                )
                continue
            text = arguments[index]
            index += 1
        key = FLAGS.get(key, key)
        if types.get(key) is str:  # as it is typed
            overrides[key] = text
            continue
        is_list = str(types.get(key, "")).startswith("list")
        try:
            value = load_yaml(f"[{text}]" if is_list and not text.startswith("[") else text)
        except yaml.YAMLError:
            if types.get(key) != list[str]:
                problems.append(f"{key}={short_repr(text)}: not a valid value")
                continue
            value = [word.strip() for word in text.split(",")]  # texts with signs that YAML gives a meaning, such as *
        overrides[key] = value
    if problems:
        raise ConfigError(problems)
    return overrides


def _unknown_flag(key: str, near: str) -> str:
    if near == f"--{key}":
        return f"--{key}: not an option of this program; --help lists those"
    return f"--{key}: unknown; did you mean {near}?"


def _every_flag() -> list[str]:
    return [f"--{name}" for name in (*FLAGS, *OTHER_FLAGS)]


def build_config(values: dict[str, Any]) -> Config:
    """A Config from full dotted keys; defaults elsewhere.

    Raises:
        ConfigError: all unknown keys and wrong types together.
    """
    config, problems = collect(values)
    if problems:
        raise ConfigError(problems)
    return config


def collect(values: dict[str, Any]) -> tuple[Config, list[str]]:
    """A Config with defaults where a key is unknown or has the wrong type, and one line for each such key.

    Types of norms, softmax and rotary embedding are accepted and change nothing: they are float32, the most exact.
    """
    fields, types = known_keys(), setting_types()
    problems, clean, num_unknown = [], {}, 0
    for key, value in values.items():
        key = _SYNONYMS.get(key, key)
        if key.rpartition(".")[0] in _ROLES and key.rpartition(".")[2] in _ALWAYS_FLOAT32:
            if value not in FLOAT_TYPES:
                problems.append(
                    f"{key}={short_repr(value)}: must be one of {', '.join(FLOAT_TYPES)}; float32 is used anyway"
                )
            continue
        if key not in fields:
            row = find_row(MINDRLHF, key)
            if row is not None and row.kind in ("accept", "lacks", "refuse") and row.allows(value):
                continue
            if row is None or row.kind != "to" or row.section == "flat":
                num_unknown += 1
                if num_unknown <= _UNKNOWN_SHOWN:
                    problems.append(_unknown(key, value, list(fields)))
                continue
            key, value = row.ours, row.translated(value)
        try:
            clean[key] = _convert(value, types[key], fields[key])
        except ValueError as error:
            problems.append(f"{key}={short_repr(value)}: {error}")
    if num_unknown > _UNKNOWN_SHOWN:
        problems.append(f"and {num_unknown - _UNKNOWN_SHOWN:,} more unknown keys; is it a configuration at all?")
    return _construct(Config, "", clean), problems


def without_effect(values: dict[str, Any]) -> list[str]:
    """One line for each key of another toolkit that `collect` accepts and that changes nothing, with the reason."""
    known, lines = known_keys(), []
    for key, value in values.items():
        row = None if key in known else find_row(MINDRLHF, key)
        if row is not None and row.kind in ("accept", "lacks", "refuse") and row.allows(value):
            lines.append(f"{key}={short_repr(value)} has no effect: {row.text}")
    return lines


def _unknown(key: str, value: Any, known: list[str]) -> str:
    name = key.rpartition(".")[2]
    if settings := [other for other in known if other.startswith(f"{key}.")]:
        return f"{key}={short_repr(value)}: a section, not a setting: give its settings below it, such as {settings[0]}"
    for toolkit in (MINDRLHF, MINDSPEED_RL):
        row = find_row(toolkit, key) or find_row(toolkit, key.replace("actor_config.", "megatron."))
        if row is not None and row.section != "flat":
            what = f"{row.ours} here" if row.kind == "to" else row.text
            return f"{key}={short_repr(value)}: a key of {toolkit}: {what} (tools/migrate_config.py --table)"
    section = key.rpartition(".")[0]
    if not section and (flag := nearest_flag([key], _every_flag())):
        return _unknown_flag(key, flag)
    there = [k.rpartition(".")[2] for k in (*known, *table(MINDRLHF)) if section and k.rpartition(".")[0] == section]
    near = [f"{section}.{close}" for close in difflib.get_close_matches(name, there, 1, 0.8)]
    near = near or [k for k in known if k.endswith("." + name)][:1]
    advice = f"did you mean {near[0]}?" if near else "remove it; docs/config.md lists all keys"
    return f"{key}={short_repr(value)}: unknown key; {advice}"


def _convert(value: Any, wanted: Any, entry: dataclasses.Field) -> Any:
    if wanted in (list[int], list[float], list[str]):
        items = value if isinstance(value, list) else [value]
        kind = wanted.__args__[0]
        return [str(item) if kind is str and type(item) is int else _scalar(item, kind) for item in items]
    result = _scalar(value, wanted)
    choices = entry.metadata["facts"].choices
    if choices and result not in choices:
        near = difflib.get_close_matches(str(result), choices, 1)
        raise UserError(
            f"must be one of {', '.join(filter(None, choices))}" + (f"; did you mean {near[0]}?" if near else "")
        )
    return result


def _scalar(value: Any, wanted: type) -> Any:
    if wanted is float and isinstance(value, float) and not math.isfinite(value):
        raise UserError("a finite number is needed")
    if wanted is float and isinstance(value, str):
        try:
            return float(value)  # YAML reads 1e-6 as text
        except ValueError:
            pass
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is str and value is None:
        return ""
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        if isinstance(value, str):
            check_is_name(value, "the text")
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise UserError(f"{names[wanted]} is needed, not {type(value).__name__}")


def _construct(section: type, prefix: str, values: dict[str, Any]) -> Any:
    arguments = {}
    for name, hint in get_type_hints(section).items():
        if dataclasses.is_dataclass(hint):
            arguments[name] = _construct(hint, f"{prefix}{name}.", values)  # type: ignore[arg-type]
        elif prefix + name in values:
            arguments[name] = values[prefix + name]
    return section(**arguments)
