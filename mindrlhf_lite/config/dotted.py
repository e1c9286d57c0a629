"""Nested settings by full dotted key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def by_dotted_key(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Example: by_dotted_key({"a": {"b": 1}, "c": [2]}) == {"a.b": 1, "c": [2]}; empty sections have no key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= by_dotted_key(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
