"""Hydra's trees of settings, as verl's users have them: YAML files with `defaults`, overrides (key=value, +key=value,
~key), and interpolations (${data.max_prompt_length}); in shell scripts overrides are read as text, nothing is run.

`defaults` name files beside the configuration, or in hydra.searchpath; one that is not there, such as ppo_trainer, is
taken to be verl's own, whose values stand in verl.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mindrlhf_lite.config.aliases.shell_words import words_of_script
from mindrlhf_lite.config.aliases.tables import VERL, table
from mindrlhf_lite.config.dotted import by_dotted_key
from mindrlhf_lite.errors import UserError, short_repr
from mindrlhf_lite.files.strict_yaml import load_yaml, read_yaml_file
from mindrlhf_lite.files.text_file import read_text

_OVERRIDE = re.compile(r"(?:\+{0,2}[A-Za-z_]\w*(?:\.[\w-]+)+=.*|~[A-Za-z_]\w*(?:\.[\w-]+)+(?:=.*)?)", re.DOTALL)
_FLOAT = re.compile(r"[+-]?\d+(?:\.\d*)?[eE][+-]?\d+")
_PACKAGE = re.compile(r"#\s*@package\s+(\S+)")
_MOST_FILES = 100


def is_override(word: str) -> bool:
    """Whether a word of a command line is Hydra's, and no option of this toolkit: section.key=value."""
    return _OVERRIDE.fullmatch(word) is not None


def read_tree(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that a YAML file or a shell script (.sh) and overrides give, resolved, by full dotted key.

    Raises:
        UserError: an override or an interpolation that cannot be read, `defaults` that go in circles.
    """
    words = list(overrides)
    tree: Any = OmegaConf.create({})
    if str(path).endswith(".sh"):
        words = [word for word in words_of_script(read_text(path)) if is_override(word)] + words
        if not words:
            raise UserError(f"{path}: no settings in it, such as algorithm.adv_estimator=grpo")
    else:
        tree = _composed(Path(path), [])
    removed = []
    for word in words:
        if word.startswith("~"):
            removed.append(word[1:].partition("=")[0])
        else:
            key, _, text = word.lstrip("+").partition("=")
            OmegaConf.update(tree, key, _value(word, text), merge=True, force_add=True)
    for key in removed:
        parent, _, name = key.rpartition(".")
        section = OmegaConf.select(tree, parent)
        if not isinstance(section, DictConfig) or name not in section:
            raise UserError(f"~{key}: it is not there")
        del section[name]
    return _resolved(tree, str(path))


def _value(word: str, text: str) -> Any:
    try:
        return load_yaml(text) if text else ""
    except Exception:
        raise UserError(f"{short_repr(word)}: not a valid value") from None


def _composed(path: Path, above: list[Path]) -> DictConfig:
    """A file and what its `defaults` name, merged in their order. Args: above: files that name it."""
    if path.resolve() in above or len(above) > _MOST_FILES:
        raise UserError(f"{path}: its defaults go in circles")
    values = read_yaml_file(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: a mapping of sections is needed")
    own = OmegaConf.create({key: value for key, value in values.items() if key not in ("defaults", "hydra")})
    entries = list(values.get("defaults") or [])
    if "_self_" not in entries:
        entries.append("_self_")
    hydra = values.get("hydra")
    searched = [path.parent, *_search_path(hydra if isinstance(hydra, dict) else {}, path.parent)]
    found: Any = OmegaConf.create({})
    for entry in entries:
        if entry == "_self_":
            found = OmegaConf.merge(found, own)
            continue
        name, package = _named(entry)
        files = [folder / f"{name}.yaml" for folder in searched]
        file = next((each for each in files if each.is_file()), None)
        if name and file is not None:
            inner = _composed(file, [*above, path.resolve()])
            declared = _PACKAGE.search(read_text(file))
            place = package if declared is None or package else declared.group(1).replace("_global_", "")
            found = OmegaConf.merge(found, _placed(inner, place))
    return found


def _search_path(hydra: dict[str, Any], folder: Path) -> list[Path]:
    given = [str(each).removeprefix("file://") for each in hydra.get("searchpath") or []]
    return [place for each in given for place in (folder / each, Path(each))]


def _named(entry: Any) -> tuple[str, str]:
    """(file without its ending, the section that it goes to) of an entry: "name", {"group": "name"}, {"group@section":
    "name"}; "" for one that is turned off.
    """
    if not isinstance(entry, dict):
        return str(entry), str(entry).rpartition("/")[0].replace("/", ".")
    (group, name), *_ = entry.items()
    group = str(group).removeprefix("optional ").removeprefix("override ").lstrip("/")
    group, _, package = group.partition("@")
    return (f"{group}/{name}" if name else ""), package or group.replace("/", ".")


def _placed(tree: DictConfig, section: str) -> DictConfig:
    if not section:
        return tree
    placed = OmegaConf.create({})
    OmegaConf.update(placed, section, tree, force_add=True)
    return placed


def _resolved(tree: DictConfig, path: str) -> dict[str, Any]:
    """Interpolations see verl's defaults too; of the result what was given is kept."""
    whole = OmegaConf.create({})
    for key, row in table(VERL).items():
        if row.has_default:
            OmegaConf.update(whole, key, row.default, force_add=True)
    merged: Any = OmegaConf.merge(whole, tree)
    found: dict[str, Any] = {}
    for key in _keys(tree, ""):
        try:
            if OmegaConf.is_missing(*_parent(merged, key)):
                continue
            value = OmegaConf.select(merged, key)
        except OmegaConfBaseException as error:
            raise UserError(f"{path}: {key}: {str(error).splitlines()[0]}") from None
        if isinstance(value, DictConfig):
            inner = OmegaConf.to_container(value, resolve=True)
            assert isinstance(inner, dict)
            found |= by_dotted_key(inner, f"{key}.")
        elif isinstance(value, ListConfig):
            found[key] = OmegaConf.to_container(value, resolve=True)
        else:
            found[key] = _as_number(value)
    return found


def _as_number(value: Any) -> Any:
    """1e-6, which is text to YAML 1.1, and a number to Hydra."""
    return float(value) if isinstance(value, str) and _FLOAT.fullmatch(value) else value


def _keys(tree: DictConfig, prefix: str) -> list[str]:
    found = []
    for key in map(str, tree):
        inner = None if OmegaConf.is_missing(tree, key) or OmegaConf.is_interpolation(tree, key) else tree[key]
        found += _keys(inner, f"{prefix}{key}.") if isinstance(inner, DictConfig) else [f"{prefix}{key}"]
    return found


def _parent(tree: DictConfig, key: str) -> tuple[Any, str]:
    section, _, name = key.rpartition(".")
    return (OmegaConf.select(tree, section) if section else tree), name
