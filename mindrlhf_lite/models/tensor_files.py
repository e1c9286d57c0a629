"""Files of named tensors, read and written a piece at a time: safetensors, and MindSpore's .ckpt.

The libraries want a whole file in memory, twice where they write; here a piece is 16 MiB, whatever the size of the
model. Values are float32 on this side; bfloat16 and float16 on disk survive reading and writing bit for bit.

A .ckpt is a protocol buffer: repeated Value {tag, tensor {dims, type, content}}, a large tensor in several Values of
the same tag one after the other (mindspore/train/serialization.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.durable import place
from mindrlhf_lite.files.json_file import no_key_twice, parse_json

PIECE_BYTES = 16 << 20
_CKPT_VALUE_BYTES = 512 << 20  # MindSpore's own limit of one Value
_STORED = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "BF16": np.uint16}
_CKPT_TYPES = {"Float32": "F32", "Float16": "F16", "Float64": "F64", "BFloat16": "BF16"}
DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}  # what the tools write
Box = Sequence[tuple[int, int]]
Progress = Callable[[int], None]


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """uint16 bfloat16 bit patterns -> float32 of the same shape: bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 -> uint16 bit patterns of the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), ((bits >> 16) | 0x0040).astype(np.uint16), rounded)


def stored(values: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """float32 values as they lie in a file of `dtype`.

    Raises:
        ValueError: a finite value has no float16.
    """
    if dtype == "BF16":
        return narrow_bfloat16(values)
    with np.errstate(over="ignore"):
        result = values.astype(_STORED[dtype])
    if dtype == "F16" and np.isinf(result).any() and not np.isinf(values).any():
        raise UserError(f"{name}: {float(np.abs(values).max()):g} is too large for fp16; take bf16 or fp32")
    return result


@dataclass(frozen=True)
class TensorEntry:
    """Example: TensorEntry("BF16", (896,), ((1024, 1792),))"""

    dtype: str  # F32, F16, F64, BF16, or what else the file says
    shape: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]  # (offset in the file, bytes) of its parts


class TensorFile:
    """Boxes of the tensors of one file, read by position: unlike a memory map, what was read does not stay in this
    process's memory.
    """

    def __init__(self, path: Path, entries: dict[str, TensorEntry]):
        self.path, self.entries = path, entries

    def read(self, name: str, box: Box) -> np.ndarray:
        """float32 values of a box ((start, stop) of every dimension).

        Raises:
            ValueError: a dtype that is not supported, or the file is cut short.
        """
        entry = self.entries[name]
        if entry.dtype not in _STORED:
            raise UserError(f"{self.path}: {name} has dtype {entry.dtype}; supported: {', '.join(_STORED)}")
        dtype, width, (first, last) = (
            np.dtype(_STORED[entry.dtype]),
            int(np.prod(entry.shape[1:], dtype=np.int64)),
            box[0],
        )
        result = np.empty([stop - start for start, stop in box], np.float32)
        step = max(1, PIECE_BYTES // max(1, width * dtype.itemsize))
        with self.path.open("rb", buffering=0) as file:
            for start in range(first, last, step):
                stop = min(start + step, last)
                rows = np.empty((stop - start, *entry.shape[1:]), dtype)
                self._fill(file, name, start * width * dtype.itemsize, rows.reshape(-1).view(np.uint8))
                values = rows[(slice(None), *(slice(*bounds) for bounds in box[1:]))]
                result[start - first : stop - first] = widen_bfloat16(values) if entry.dtype == "BF16" else values
        return result

    def _fill(self, file: BinaryIO, name: str, at: int, buffer: np.ndarray) -> None:
        """Bytes from position `at` of a tensor, over the parts that it lies in."""
        filled = 0
        for offset, size in self.entries[name].ranges:
            if filled < buffer.size and at < size:
                count = min(size - at, buffer.size - filled)
                file.seek(offset + at)
                if file.readinto(buffer[filled : filled + count].data) != count:  # type: ignore[attr-defined]
                    break
                filled += count
            at = max(0, at - size)
        if filled != buffer.size:
            raise UserError(f"{self.path}: cut short while {name} was read")


def read_header(path: Path) -> dict[str, TensorEntry]:
    """What one safetensors file holds.

    Raises:
        ValueError: the file is cut short or is not safetensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise UserError(f"{path}: not a safetensors file, or cut short ({size} bytes)")
        try:
            header = parse_json(file.read(length), no_key_twice)
            header.pop("__metadata__", None)
            entries = {name: _header_entry(8 + length, **entry) for name, entry in header.items()}
        except (UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path}: broken safetensors header ({error})") from None
    _check_ranges(path, {name: entry.ranges[0] for name, entry in entries.items()}, 8 + length, size)
    return entries


def _check_ranges(path: Path, ranges: dict[str, tuple[int, int]], start: int, size: int) -> None:
    """Raises ValueError where tensors do not lie in the data, one behind another."""
    end, before = start, ""
    for name, (offset, count) in sorted(ranges.items(), key=lambda entry: entry[1]):
        if count < 0 or offset < start:
            raise UserError(f"{path}: broken safetensors header ({name} begins or ends before the data)")
        if offset < end and count:
            raise UserError(f"{path}: broken safetensors header ({name} overlaps {before})")
        end, before = max(end, offset + count), name
    if end > size:
        raise UserError(f"{path}: cut short: {size} bytes, {end} expected")


def _header_entry(start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> TensorEntry:
    first, last = data_offsets
    if not all(isinstance(extent, int) for extent in (first, last)):
        raise ValueError(f"data_offsets {data_offsets}")
    if any(not isinstance(extent, int) or extent < 0 for extent in shape):
        raise ValueError(f"shape {shape}")
    if dtype in _STORED and last - first != math.prod(shape) * np.dtype(_STORED[dtype]).itemsize:
        raise ValueError(f"{last - first} bytes of {dtype} {shape}")
    return TensorEntry(dtype, tuple(shape), ((start + first, last - first),))


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """(field number, value or length) up to position `end`; after a length the file stands at the field's first byte,
    and is moved past it.
    """
    while file.tell() < end:
        key = _varint(file)
        value = _varint(file)
        if key & 7 not in (0, 2) or file.tell() + (value if key & 7 == 2 else 0) > end:
            raise EOFError
        after = file.tell() + (value if key & 7 == 2 else 0)
        yield key >> 3, value
        file.seek(after)


def read_ckpt_index(path: Path) -> dict[str, TensorEntry]:
    """What one .ckpt file of MindSpore holds; tensor contents are skipped.

    Raises:
        ValueError: the file is cut short, encrypted, or not a .ckpt.
    """
    entries: dict[str, TensorEntry] = {}
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            for field, length in _fields(file, size):
                if field != 1:
                    raise EOFError
                name, entry = _ckpt_value(file, file.tell() + length)
                if name in entries:
                    entry = TensorEntry(entry.dtype, entry.shape, entries[name].ranges + entry.ranges)
                entries[name] = entry
    except (EOFError, UnicodeDecodeError):
        raise UserError(
            f"{path}: not a MindSpore .ckpt file, cut short, encrypted, or with a checksum ({size} bytes)"
        ) from None
    return entries


def _ckpt_value(file: BinaryIO, end: int) -> tuple[str, TensorEntry]:
    name, kind, dims, content = "", "", [], (0, 0)
    for field, length in _fields(file, end):
        if field == 1:
            name = file.read(length).decode()
        elif field == 2:
            for part, value in _fields(file, file.tell() + length):
                if part == 1:
                    dims.append(value)
                elif part == 2:
                    kind = file.read(value).decode()
                elif part == 3:
                    content = (file.tell(), value)
    return name, TensorEntry(_CKPT_TYPES.get(kind, kind), tuple(dims), (content,))


def open_tensor_file(path: Path) -> TensorFile:
    """Raises ValueError as `read_header` and `read_ckpt_index`, or for another suffix."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return TensorFile(path, read_header(path))
    if path.suffix == ".ckpt":
        return TensorFile(path, read_ckpt_index(path))
    raise UserError(f"{path}: neither .safetensors nor .ckpt")


@dataclass(frozen=True)
class TensorToWrite:
    """Example: TensorToWrite("lm_head.weight", "BF16", (151936, 896), lambda start, stop: weights[start:stop])"""

    name: str
    dtype: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], np.ndarray]  # float32 rows start..stop of the first dimension

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(_STORED[self.dtype]).itemsize

    def write(self, file: BinaryIO, first: int, last: int) -> None:
        """Rows first..last, a piece at a time."""
        row_bytes = self.nbytes // max(1, self.shape[0])
        step = max(1, PIECE_BYTES // max(1, row_bytes))
        for start in range(first, last, step):
            values = self.rows(start, min(start + step, last))
            file.write(np.ascontiguousarray(stored(values, self.dtype, self.name)).data)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file under a temporary name, renamed when all is well, and removed when not."""
    scratch = path.with_name(path.name + ".tmp")
    try:
        with scratch.open("wb") as file:
            yield file
        place(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _silent(count: int) -> None:
    pass


def write_safetensors(
    path: Path, tensors: Sequence[TensorToWrite], framework: str = "pt", progress: Progress = _silent
) -> None:
    """One file; `framework` goes into its metadata ("pt", "ms"). Nothing is left there when it fails. `progress(1)`
    after every tensor.
    """
    header: dict[str, dict] = {"__metadata__": {"format": framework}}
    offset = 0
    for tensor in sorted(
        tensors, key=lambda tensor: tensor.dtype not in ("F32", "F64")
    ):  # wider types first: every tensor is aligned
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    by_name = {tensor.name: tensor for tensor in tensors}
    with _replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in list(header)[1:]:
            by_name[name].write(file, 0, by_name[name].shape[0])
            progress(1)


def _encode(value: int) -> bytes:
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def write_ckpt(path: Path, tensors: Sequence[TensorToWrite], progress: Progress = _silent) -> None:
    """One .ckpt file that mindspore.load_checkpoint reads. Nothing is left there when it fails. `progress(1)` after
    every tensor.
    """
    kinds = {dtype: kind for kind, dtype in _CKPT_TYPES.items()}
    with _replacing(path) as file:
        for tensor in tensors:
            name, kind, rows = tensor.name.encode(), kinds[tensor.dtype].encode(), tensor.shape[0]
            row_bytes = tensor.nbytes // max(1, rows)
            step = max(1, _CKPT_VALUE_BYTES // max(1, row_bytes))
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                size = (stop - start) * row_bytes
                head = (
                    b"".join(b"\x08" + _encode(extent) for extent in tensor.shape)
                    + b"\x12"
                    + _encode(len(kind))
                    + kind
                    + b"\x1a"
                    + _encode(size)
                )
                value = b"\x0a" + _encode(len(name)) + name + b"\x12" + _encode(len(head) + size)
                file.write(b"\x0a" + _encode(len(value) + len(head) + size) + value + head)
                tensor.write(file, start, stop)
            progress(1)
