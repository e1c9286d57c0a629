"""Whose a configuration is, and ours in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindrlhf_lite.config.aliases.mindrlhf import translate_mindrlhf
from mindrlhf_lite.config.aliases.mindspeed_rl import translate_mindspeed_rl
from mindrlhf_lite.config.aliases.tables import MINDRLHF, VERL, find_row, toolkit_of
from mindrlhf_lite.config.aliases.translation import Translation, defaults_of_ours
from mindrlhf_lite.config.aliases.verl import translate_verl
from mindrlhf_lite.config.load import read_yaml

_TREES = ("ppo_trainer", "ppo_megatron_trainer")  # verl's own, which its users' files name in `defaults`


def read_configuration(path: str, words: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """A file's settings by full dotted key, and what of the command line's further words is not in them yet: with a
    file of verl (a YAML of its tree, or a shell script with overrides) key=value, +key=value and ~key are.

    Raises:
        ConfigError, UserError: it cannot be read.
    """
    is_script = path.endswith(".sh")
    values = {} if is_script else read_yaml(path)
    named = [each for each in values.get("defaults") or () if isinstance(each, str)]
    if not is_script and toolkit_of(values) != VERL and not any(each in _TREES for each in named):
        return values, list(words)
    from mindrlhf_lite.config.aliases.hydra import is_override, read_tree

    theirs = [word for word in words if is_override(word)]
    return read_tree(path, theirs), [word for word in words if word not in theirs]


def translate(
    values: dict[str, Any], path: str, overrides: dict[str, Any] | None = None, num_ranks: int = 0
) -> Translation | None:
    """A file's settings as ours; None where they are ours already.

    Args: values: by full dotted key; path: the file; overrides: of the command line. With a file of MindRLHF, whose
    keys are much like ours, it speaks the file's language, and ours in what that has no word for; with one of
    MindSpeed-RL or verl ours, and the file's in what we have no word for. num_ranks: where data_parallel is not given;
    0: not known.
    """
    toolkit, overrides, known = toolkit_of(values), overrides or {}, defaults_of_ours()
    if toolkit is None:
        return None
    if toolkit == MINDRLHF:
        translation = translate_mindrlhf({**values, **overrides}, num_ranks)
        rows = {key: find_row(toolkit, key) for key in overrides}
        ours = {
            key: value
            for key, value in overrides.items()
            if key in known and ((row := rows[key]) is None or row.kind == "accept")
        }
    else:
        ours = {key: value for key, value in overrides.items() if key in known}
        theirs = {key: value for key, value in overrides.items() if key not in known}
        given = {**values, **theirs}
        is_verl = toolkit == VERL
        translation = translate_verl(given, num_ranks) if is_verl else translate_mindspeed_rl(given, path, num_ranks)
    translation.values.update(ours)
    return translation
