"""JSON files that users bring."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import read_text

_DEEPEST = 100  # levels: what walks through a value, and Python's own repr, call themselves once a level


class NotJson(ValueError):
    """A text is no JSON; `line` says where."""

    def __init__(self, message: str, line: int):
        super().__init__(message)
        self.line = line


def parse_json(text: str | bytes, make_object: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What `json.loads` gives. Args: make_object: of its keys and values, in place of a dict.

    Raises:
        ValueError: in words, whatever is wrong with it: also of nesting and of numbers too long for Python.
    """
    try:
        values = json.loads(text, object_pairs_hook=make_object)
        _check_depth(text, values)
        return values
    except json.JSONDecodeError as error:
        raise NotJson(f"not valid JSON ({error.msg} at column {error.colno})", error.lineno) from None
    except UnicodeDecodeError:
        raise ValueError("not valid UTF-8") from None
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply)") from None
    except KeyTwice:
        raise
    except _TooDeep:
        raise ValueError("not valid JSON (nested too deeply)") from None
    except ValueError:  # int() of more digits than sys.get_int_max_str_digits()
        raise ValueError("it holds a number of too many digits; put it in quotes") from None


class _TooDeep(ValueError):
    pass


class KeyTwice(ValueError):
    """An object has a key twice."""


def _check_depth(text: str | bytes, values: Any) -> None:
    """Raises _TooDeep where values lie in more than `_DEEPEST` others."""
    opening = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    if sum(map(text.count, opening)) <= _DEEPEST:  # type: ignore[arg-type]
        return
    level, depth = [values], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise _TooDeep
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """`make_object` of `parse_json` for files in which a second value of a key could be meant to hide the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise KeyTwice(f"a key stands twice in one object, among {', '.join(map(repr, list(found)[:3]))}")
    return found


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: there is none, and why.
    """
    try:
        values = parse_json(read_text(path), no_key_twice)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a JSON object is needed")
    return values
