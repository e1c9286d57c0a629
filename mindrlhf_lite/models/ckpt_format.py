"""Reads and writes MindSpore's .ckpt, a protocol buffer: repeated Value {tag, tensor {dims, type, content}}, a large
tensor in several Values of the same tag one after the other (mindspore/train/serialization.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.tensor_files import OnTensor, TensorEntry, TensorToWrite, replacing, say_nothing

_VALUE_BYTES = 512 << 20  # MindSpore's own limit of one Value
_TYPES = {"Float32": "F32", "Float16": "F16", "Float64": "F64", "BFloat16": "BF16"}


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
    return name, TensorEntry(_TYPES.get(kind, kind), tuple(dims), (content,))


def _encode(value: int) -> bytes:
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def write_ckpt(path: Path, tensors: Sequence[TensorToWrite], progress: OnTensor = say_nothing) -> None:
    """One .ckpt file that mindspore.load_checkpoint reads. Nothing is left there when it fails. `progress(1)` after
    every tensor.
    """
    kinds = {dtype: kind for kind, dtype in _TYPES.items()}
    with replacing(path) as file:
        for tensor in tensors:
            name, kind, rows = tensor.name.encode(), kinds[tensor.dtype].encode(), tensor.shape[0]
            row_bytes = tensor.nbytes // max(1, rows)
            step = max(1, _VALUE_BYTES // max(1, row_bytes))
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
