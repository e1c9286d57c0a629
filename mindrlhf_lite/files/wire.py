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
import re
import struct
import types
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

_HEAD = struct.Struct("<I")  # bytes of the JSON, which the arrays' bytes follow
_PLAIN = (bool, int, float, str, type(None))
_DTYPE = re.compile(r"[<|][biuf][0-9]{1,2}")  # of arrays, as numpy writes them

Arrays = list[np.ndarray]  # met so far: a value holds their places
Writer = Callable[[Any, Arrays], Any]  # (value, arrays) -> what JSON takes; raises TypeError
Reader = Callable[[Any, Arrays], Any]  # the way back


class BadMessage(ValueError):
    """Bytes that are no value of the kind."""


def to_bytes(value: Any, kind: Any = Any) -> bytes:
    """What `from_bytes` makes the value of again. Raises TypeError where the value is not of the kind."""
    arrays: Arrays = []
    plain = _writer(kind)(value, arrays)
    message = {"value": plain, "arrays": [[each.dtype.str, each.shape] for each in arrays]}
    text = json.dumps(message, separators=(",", ":")).encode()
    return b"".join([_HEAD.pack(len(text)), text, *(each.tobytes() for each in arrays)])


def from_bytes(data: bytes, kind: Any = Any) -> Any:
    """The value. Arrays are their own copies. Raises BadMessage."""
    try:
        (length,) = _HEAD.unpack_from(data)
        message = json.loads(data[_HEAD.size : _HEAD.size + length])
        arrays = _arrays(message["arrays"], memoryview(data)[_HEAD.size + length :])
        return _reader(kind)(message["value"], arrays)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadMessage(f"no value of {kind}: {type(error).__name__}: {str(error)[:200]}") from None


def _arrays(described: Any, data: memoryview) -> Arrays:
    arrays, start = [], 0
    for name, shape in described:
        if not _DTYPE.fullmatch(name) or not all(type(extent) is int and extent >= 0 for extent in shape):
            raise BadMessage(f"an array of {name}, shape {shape}")
        dtype = np.dtype(name)
        size = math.prod(shape) * dtype.itemsize
        if size > len(data) - start:
            raise BadMessage("an array is cut short")
        arrays.append(np.frombuffer(data[start : start + size], dtype).reshape(shape).copy())
        start += size
    if start != len(data):
        raise BadMessage("there is more than the arrays")
    return arrays


def _is_record(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


def _fields(kind: Any) -> dict[str, Any]:
    """{field of a dataclass: its kind}."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _or_none(kind: Any) -> Any:
    """X of `X | None`; None where the kind is no such union."""
    if get_origin(kind) not in (Union, types.UnionType):
        return None
    (inner,) = [each for each in get_args(kind) if each is not type(None)]
    return inner


def _items(kind: Any) -> tuple[Any, ...] | None:
    """The kinds of the items of a tuple that has so many; None: any number of the first."""
    inner = get_args(kind)
    return inner if get_origin(kind) is tuple and inner[-1] is not Ellipsis else None


@functools.cache
def _writer(kind: Any) -> Writer:
    origin: Any = get_origin(kind) or kind
    if inner := _or_none(kind):
        write = _writer(inner)
        return lambda value, arrays: None if value is None else write(value, arrays)
    if kind is Any:
        return lambda value, arrays: _json(value)
    if origin is np.ndarray:
        return _write_array
    if origin in (list, tuple):
        return _of_items(kind, _writer, (list, tuple), list)
    if origin in (dict, Mapping):
        key, item = map(_writer, get_args(kind))

        def write_pairs(value: Any, arrays: Arrays) -> Any:
            return [[key(k, arrays), item(v, arrays)] for k, v in _of(Mapping, value).items()]

        return write_pairs
    if _is_record(origin):
        fields = [(name, _writer(inner)) for name, inner in _fields(origin).items()]
        return lambda value, arrays: [write(getattr(_of(origin, value), name), arrays) for name, write in fields]
    if issubclass(origin, Enum):
        return lambda value, arrays: _of(origin, value).value
    if issubclass(origin, Path):
        return lambda value, arrays: str(_of(Path, value))
    if origin not in _PLAIN:
        raise TypeError(f"{kind} is no kind of message")
    return lambda value, arrays: _plain(origin, value)


def _of_items(kind: Any, of_kind: Callable[[Any], Writer | Reader], takes: Any, make: Callable[[list], Any]) -> Any:
    """The writer or the reader of a list or a tuple. Args: of_kind: that of an item; takes: types of what it is given;
    make: what it returns of the items.
    """
    if kinds := _items(kind):
        codecs = list(map(of_kind, kinds))

        def each(value: Any, arrays: Arrays) -> Any:
            if len(_of(takes, value)) != len(codecs):
                raise TypeError(f"{len(value)} items are not {kind}")
            return make([codec(item, arrays) for codec, item in zip(codecs, value, strict=True)])

        return each
    codec = of_kind(get_args(kind)[0])
    return lambda value, arrays: make([codec(item, arrays) for item in _of(takes, value)])


def _write_array(value: Any, arrays: Arrays) -> int:
    array = _of(np.ndarray, value)
    arrays.append(np.ascontiguousarray(array).reshape(array.shape))
    return len(arrays) - 1


def _of(kind: Any, value: Any) -> Any:
    """The value, if it is one of the kind. Raises TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} is not {kind}")
    return value


def _plain(kind: Any, value: Any) -> Any:
    """A number, a text or None, if it is just of the kind, or a whole number where a real one is. Raises TypeError."""
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    raise TypeError(f"{type(value).__name__} is not {kind}")


def _json(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("keys of a JSON value are texts")
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, _PLAIN) and not isinstance(value, Enum):
        return value
    raise TypeError(f"{type(value).__name__} is no JSON value")


@functools.cache
def _reader(kind: Any) -> Reader:
    origin: Any = get_origin(kind) or kind
    if inner := _or_none(kind):
        read = _reader(inner)
        return lambda plain, arrays: None if plain is None else read(plain, arrays)
    if kind is Any:
        return lambda plain, arrays: plain
    if origin is np.ndarray:
        return lambda place, arrays: arrays[range(len(arrays)).index(_plain(int, place))]
    if origin in (list, tuple):
        return _of_items(kind, _reader, list, origin)
    if origin in (dict, Mapping):
        key, item = map(_reader, get_args(kind))
        return lambda plain, arrays: {key(k, arrays): item(v, arrays) for k, v in _of(list, plain)}
    if _is_record(origin):
        readers = list(map(_reader, _fields(origin).values()))

        def read_record(plain: Any, arrays: Arrays) -> Any:
            return origin(*[read(item, arrays) for read, item in zip(readers, _of(list, plain), strict=True)])

        return read_record
    if issubclass(origin, Enum):
        return lambda plain, arrays: origin(plain)
    if issubclass(origin, Path):
        return lambda plain, arrays: Path(_plain(str, plain))
    return lambda plain, arrays: _plain(origin, plain)
