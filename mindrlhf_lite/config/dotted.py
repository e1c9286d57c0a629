"""Nested settings by full dotted key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Section = TypeVar("Section", bound=Any)


def by_dotted_key(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Example: by_dotted_key({"a": {"b": 1}, "c": [2]}) == {"a.b": 1, "c": [2]}; empty sections have no key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= by_dotted_key(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def replaced(section: Section, values: Mapping[str, Any]) -> Section:
    """The settings with others by dotted key. Example: replaced(config, {"rl_config.swap": True}).rl_config.swap"""
    own: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        head, dot, rest = key.partition(".")
        if dot:
            nested.setdefault(head, {})[rest] = value
        else:
            own[head] = value
    own |= {head: replaced(getattr(section, head), inner) for head, inner in nested.items()}
    return dataclasses.replace(section, **own)
