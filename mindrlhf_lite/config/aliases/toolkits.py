"""Whose a configuration is, and ours in its place."""

from __future__ import annotations

from typing import Any

from mindrlhf_lite.config.aliases.mindrlhf import translate_mindrlhf
from mindrlhf_lite.config.aliases.mindspeed_rl import translate_mindspeed_rl
from mindrlhf_lite.config.aliases.tables import MINDRLHF, find_row, toolkit_of
from mindrlhf_lite.config.aliases.translation import Translation, defaults_of_ours


def translate(values: dict[str, Any], path: str, overrides: dict[str, Any] | None = None) -> Translation | None:
    """A file's settings as ours; None where they are ours already.

    Args: values: by full dotted key; path: the file; overrides: of the command line, which speaks the file's language,
    and ours in what that has no word for.
    """
    toolkit, overrides = toolkit_of(values), overrides or {}
    if toolkit is None:
        return None
    both = {**values, **overrides}
    translation = translate_mindrlhf(both) if toolkit == MINDRLHF else translate_mindspeed_rl(both, path)
    known = defaults_of_ours()
    for key, value in overrides.items():
        if key in known and find_row(toolkit, key) is None:
            translation.values[key] = value
    return translation
