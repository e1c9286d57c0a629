"""Fields of a row by name or by a dotted path, and what must be in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import check_is_text

ABSENT = object()
_SHOWN = 200  # characters of a value in a message


def field_at(value: Mapping[str, Any], field: str) -> Any:
    """A field by its name, else by a dotted path into objects and lists ("reward_model.ground_truth")."""
    found: Any = value
    if field in value:
        return value[field]
    for name in field.split("."):
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return ABSENT
    return found


def find_field(value: Mapping[str, Any], fields: Sequence[str]) -> tuple[str, Any]:
    """(name, value) of the first field that the row has; ("", None) where it has none."""
    for name in fields:
        if (found := field_at(value, name)) is not ABSENT and found is not None:
            if isinstance(found, ValueError):  # an object in which a key stands twice
                raise found
            return name, found
    return "", None


def field_words(fields: Sequence[str]) -> str:
    return " or ".join(map(repr, fields))


def needed_field(value: Mapping[str, Any], fields: Sequence[str]) -> tuple[str, Any]:
    name, found = find_field(value, fields)
    if found is None:
        absent = all(field_at(value, field) is ABSENT for field in fields)
        there = f"; the row has {', '.join(map(repr, value))}" if value else ""
        raise UserError(f"field {field_words(fields)} is {'missing' + there if absent else 'null'}")
    return name, found


def text_field(value: Mapping[str, Any], fields: Sequence[str]) -> str:
    found = needed_field(value, fields)[1]
    if isinstance(found, int | float | Decimal) and not isinstance(found, bool):
        if not math.isfinite(found):
            raise UserError(f"field {field_words(fields)} is {found}, which is no number")
        found = str(found)
    if not isinstance(found, str) or not found.strip():
        shown = repr(found) if len(repr(found)) < _SHOWN else f"{repr(found)[:_SHOWN]}..."
        raise UserError(f"field {field_words(fields)} is {shown}, a non-empty string is needed")
    return whole_text(found.strip(), field_words(fields))


def whole_text(text: str, field: str) -> str:
    check_is_text(text, f"field {field}")
    return text
