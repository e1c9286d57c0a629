"""Values as bytes, and back, for what processes tell one another: JSON and arrays, read after a kind that sender and
receiver name. Nothing that arrives is executed, and nothing but the kind's own types is made of it.

A kind is an annotation: `int`, `list[str]`, `tuple[int, ScoredGroup]`, `dict[int, np.ndarray]`, `Usage | None`; `Any`
is a JSON value, whose tuples arrive as lists.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import struct
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

_HEAD = struct.Struct("<I")  # bytes of the JSON, which the arrays' bytes follow
_PLAIN = (bool, int, float, str, type(None))


class BadMessage(ValueError):
    """Bytes that are no value of the kind."""


def to_bytes(value: Any, kind: Any = Any) -> bytes:
    """What `from_bytes` makes the value of again. Raises TypeError where the value is not of the kind."""
    arrays: list[np.ndarray] = []
    text = json.dumps(
        {"value": _Writer(arrays).plain(value, kind), "arrays": [[each.dtype.str, each.shape] for each in arrays]},
        separators=(",", ":"),
    ).encode()
    return b"".join([_HEAD.pack(len(text)), text, *(each.tobytes() for each in arrays)])


def from_bytes(data: bytes, kind: Any = Any) -> Any:
    """The value. Arrays are their own copies. Raises BadMessage."""
    try:
        (length,) = _HEAD.unpack_from(data)
        message = json.loads(data[_HEAD.size : _HEAD.size + length])
        arrays = _arrays(message["arrays"], memoryview(data)[_HEAD.size + length :])
        return _Reader(arrays).value(message["value"], kind)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadMessage(f"no value of {kind}: {type(error).__name__}: {str(error)[:200]}") from None


def _arrays(described: Any, data: memoryview) -> list[np.ndarray]:
    arrays, start = [], 0
    for name, shape in described:
        dtype = np.dtype(str(name))
        if dtype.kind not in "biuf" or not all(type(extent) is int and extent >= 0 for extent in shape):
            raise BadMessage(f"an array of {name}, shape {shape}")
        size = math.prod(shape) * dtype.itemsize
        if size > len(data) - start:
            raise BadMessage("an array is cut short")
        arrays.append(np.frombuffer(data[start : start + size], dtype).reshape(shape).copy())
        start += size
    if start != len(data):
        raise BadMessage("there is more than the arrays")
    return arrays


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    """{field of a dataclass: its kind}."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _is_record(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


def _choices(kind: Any) -> tuple[Any, ...]:
    """The kinds that a union is of, or the one that it is."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _of_items(kind: Any, count: int) -> tuple[Any, ...]:
    """The kinds of a list's or a tuple's items."""
    inner = get_args(kind) or (Any,)
    if get_origin(kind) is tuple and inner[-1] is not Ellipsis:
        if len(inner) != count:
            raise TypeError(f"{count} items are not {kind}")
        return inner
    return (inner[0],) * count


class _Writer:
    def __init__(self, arrays: list[np.ndarray]):
        self.arrays = arrays  # met so far: a value holds their places

    def plain(self, value: Any, kind: Any) -> Any:
        choices = _choices(kind)
        if len(choices) > 1:
            if value is None and type(None) in choices:
                return None
            (kind,) = [each for each in choices if each is not type(None)]
        if isinstance(value, np.generic):
            value = value.item()
        if kind is Any:
            return self._json(value)
        origin: Any = get_origin(kind) or kind
        if origin is np.ndarray and isinstance(value, np.ndarray):
            self.arrays.append(np.ascontiguousarray(value).reshape(value.shape))
            return len(self.arrays) - 1
        if origin in (list, tuple) and isinstance(value, list | tuple):
            kinds = _of_items(kind, len(value))
            return [self.plain(item, inner) for item, inner in zip(value, kinds, strict=True)]
        if origin in (dict, Mapping) and isinstance(value, Mapping):
            of_key, of_value = get_args(kind)
            return [[self.plain(key, of_key), self.plain(item, of_value)] for key, item in value.items()]
        if not isinstance(value, origin) and not (origin is float and type(value) is int):
            raise TypeError(f"{type(value).__name__} is not {kind}")
        if _is_record(origin):
            return [self.plain(getattr(value, name), inner) for name, inner in _fields(origin).items()]
        if issubclass(origin, Enum):
            return value.value
        if issubclass(origin, Path):
            return str(value)
        if origin in _PLAIN:
            return value
        raise TypeError(f"{kind} is no kind of message")

    def _json(self, value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, list | tuple):
            return [self._json(item) for item in value]
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise TypeError("keys of a JSON value are texts")
            return {key: self._json(item) for key, item in value.items()}
        if isinstance(value, _PLAIN) and not isinstance(value, Enum):
            return value
        raise TypeError(f"{type(value).__name__} is no JSON value")


class _Reader:
    def __init__(self, arrays: list[np.ndarray]):
        self.arrays = arrays

    def value(self, plain: Any, kind: Any) -> Any:
        choices = _choices(kind)
        if len(choices) > 1:
            if plain is None and type(None) in choices:
                return None
            (kind,) = [each for each in choices if each is not type(None)]
        if kind is Any:
            return plain
        origin = get_origin(kind) or kind
        if origin is np.ndarray:
            return self._array(plain)
        if origin in (list, tuple):
            kinds = _of_items(kind, len(_list(plain)))
            return origin(self.value(item, inner) for item, inner in zip(plain, kinds, strict=True))
        if origin in (dict, Mapping):
            of_key, of_value = get_args(kind)
            return {self.value(key, of_key): self.value(item, of_value) for key, item in _list(plain)}
        if _is_record(origin):
            fields = _fields(origin)
            values = zip(fields.items(), _list(plain), strict=True)
            return origin(**{name: self.value(item, inner) for (name, inner), item in values})
        if issubclass(origin, Enum):
            return origin(plain)
        if issubclass(origin, Path) and type(plain) is str:
            return Path(plain)
        if origin in _PLAIN and (type(plain) is origin or (origin is float and type(plain) is int)):
            return plain
        raise TypeError(f"{type(plain).__name__} is not {kind}")

    def _array(self, place: Any) -> np.ndarray:
        if type(place) is not int or not 0 <= place < len(self.arrays):
            raise TypeError("no place of an array")
        return self.arrays[place]


def _list(plain: Any) -> list[Any]:
    if type(plain) is not list:
        raise TypeError(f"{type(plain).__name__} is no list")
    return plain
