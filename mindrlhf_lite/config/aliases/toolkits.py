"""Whose a configuration is, and ours in its place."""

from __future__ import annotations

from typing import Any

from mindrlhf_lite.config.aliases.mindrlhf import translate_mindrlhf
from mindrlhf_lite.config.aliases.mindspeed_rl import translate_mindspeed_rl
from mindrlhf_lite.config.aliases.tables import MINDRLHF, VERL, find_row, toolkit_of
from mindrlhf_lite.config.aliases.translation import Translation, defaults_of_ours


def translate(
    values: dict[str, Any], path: str, overrides: dict[str, Any] | None = None, num_ranks: int = 0
) -> Translation | None:
    """A file's settings as ours; None where they are ours already.

    Args: values: by full dotted key; path: the file; overrides: of the command line. With a file of MindRLHF, whose
    keys are much like ours, it speaks the file's language, and ours in what that has no word for; with a file of
    MindSpeed-RL ours, and the file's in what we have no word for. num_ranks: where data_parallel is not given; 0: not
    known.
    """
    toolkit, overrides, known = toolkit_of(values), overrides or {}, defaults_of_ours()
    if toolkit is None:
        return None
    if toolkit == VERL:
        why = (
            f"{path}: a configuration of verl ({len(values)} settings), which this version does not read; begin with "
            "examples/qwen_grpo/grpo_config.yaml (docs/config.md lists its keys; verl's parquet files are read by "
            "tools/rlhf_data.py)"
        )
        return Translation(VERL, problems=[why], is_unreadable=True)
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
        translation = translate_mindspeed_rl({**values, **theirs}, path, num_ranks)
    translation.values.update(ours)
    return translation
