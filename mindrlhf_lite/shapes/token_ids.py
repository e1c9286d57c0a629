"""The special tokens that a config.json or generation_config.json names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindrlhf_lite.errors import UserError, short_repr

_LARGEST = 2**31 - 1
_ONE_OR_MORE, _ONE = "eos_token_id", ("bos_token_id", "pad_token_id")


def check_token_ids(values: Mapping[str, Any], source: str) -> None:
    """Whether an id lies in the vocabulary is no question here: that of a tokenizer may be larger than the model's.

    Raises:
        UserError: an id is no whole number from 0 on. Older Llama folders say -1 for no padding.
    """
    ends = values.get(_ONE_OR_MORE)
    if not all(map(_is_id, ends if isinstance(ends, list) else [ends] if ends is not None else [])):
        raise UserError(f"{source}: {_ONE_OR_MORE}={short_repr(ends)}: a token id, or a list of them, is needed")
    for key in _ONE:
        if (value := values.get(key)) is not None and not (_is_id(value) or (type(value) is int and value == -1)):
            raise UserError(f"{source}: {key}={short_repr(value)}: a token id is needed, or leave it out")


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST
