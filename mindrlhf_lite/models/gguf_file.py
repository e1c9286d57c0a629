"""GGUF files (llama.cpp's): a header of settings and of tensors, then the tensors, mostly quantised in blocks along
their rows.

The header is read here, every length checked against the file before anything is made of it: the library's reader
trusts them, and a lying one takes all memory. Values of blocks are the library's (`gguf.quants.dequantize`), a run of
rows at a time.

Source: the specification in ggml's docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import functools
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.errors import UserError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY, _ALIGNMENT = 8, 9, 32
_MOST_DIMENSIONS = 4
_LONGEST_LIST = 4_000_000  # of a setting: vocabularies and merges are the longest
_AS_THEY_ARE = {"F32": np.float32, "F16": np.float16}
_STORED_AS = {"F32": "F32", "F16": "F16", "BF16": "BF16"}  # everything else becomes F32


@dataclass(frozen=True)
class GgufTensor:
    """Example: GgufTensor("blk.0.ffn_up.weight", (1536, 576), "Q4_1", offset=1_000_000, row_bytes=360)"""

    name: str
    shape: tuple[int, ...]  # as numpy has it: rows first
    quantization: str  # the library's name: F32, F16, Q4_1, Q6_K ...
    offset: int  # in the file
    row_bytes: int  # of a run along the last dimension

    @property
    def dtype(self) -> str:
        """F32, F16 or BF16: what holds its values without loss."""
        return _STORED_AS.get(self.quantization, "F32")


class GgufFile:
    """Settings and tensors of a file.

    Raises:
        ValueError: no GGUF file, of another version or byte order, cut short, or a header that cannot be true.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file")
        if self.path.stat().st_size < 24:
            raise UserError(f"{self.path}: not a GGUF file ({self.path.stat().st_size} bytes)")
        with self.path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self.settings, self.tensors = _Header(self._data).read()
        except (ValueError, struct.error) as error:
            raise UserError(f"{self.path}: {error}") from None

    def read_rows(self, name: str, rows: np.ndarray | slice) -> np.ndarray:
        """float32 values of rows of a tensor, in the order asked for. Args: rows: indices or a range of the first
        dimension.
        """
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        count = math.prod(tensor.shape[:-1])
        blocks = np.frombuffer(self._data, np.uint8, count * tensor.row_bytes, tensor.offset).reshape(
            count, tensor.row_bytes
        )
        is_vector = len(tensor.shape) == 1
        picked = np.ascontiguousarray(blocks if is_vector else blocks[rows])
        if tensor.quantization in _AS_THEY_ARE:
            values = picked.view(_AS_THEY_ARE[tensor.quantization]).astype(np.float32)
        else:
            values = np.asarray(dequantize(picked, GGMLQuantizationType[tensor.quantization]), np.float32)
        return values[0][rows] if is_vector else values


@functools.cache
def _can_be_dequantised(quantization: str) -> bool:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    if quantization in _AS_THEY_ARE:
        return True
    kind = GGMLQuantizationType[quantization]
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except (NotImplementedError, ValueError):
        return False
    return True


class _Header:
    """Reads from the start of the data; every number that says how much follows is held against what is left."""

    def __init__(self, data: mmap.mmap):
        self.data, self.size, self.at = data, len(data), 0

    def read(self) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
        if self.data[:4] != _MAGIC:
            raise UserError("not a GGUF file (it does not begin with GGUF)")
        self.at = 4
        version = self._number("I")
        if version not in _VERSIONS:
            wrong_order = int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS
            raise UserError(
                "GGUF in big-endian byte order, which is not read"
                if wrong_order
                else f"GGUF version {version}; versions 2 and 3 are read"
            )
        num_tensors, num_settings = self._number("Q"), self._number("Q")
        self._must_fit(num_settings, 12, "settings")  # an empty key, its type and a byte
        settings: dict[str, Any] = {}
        for _ in range(num_settings):
            key = self._string()
            if key in settings:
                raise UserError(f"the setting {key!r} stands twice")
            settings[key] = self._value(self._number("I"))
        self._must_fit(num_tensors, 24, "tensors")
        infos = [self._tensor_info() for _ in range(num_tensors)]
        alignment = settings.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise UserError(f"general.alignment={alignment!r}: a power of two is needed")
        start = -(-self.at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in infos:
            if name in tensors:
                raise UserError(f"the tensor {name!r} stands twice")
            tensors[name] = self._tensor(name, shape, kind, start + offset)
        return settings, tensors

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, num_dims = self._string(), self._number("I")
        if not 1 <= num_dims <= _MOST_DIMENSIONS:
            raise UserError(f"the tensor {name!r} has {num_dims} dimensions; 1 to {_MOST_DIMENSIONS} are possible")
        shape = tuple(reversed([self._number("Q") for _ in range(num_dims)]))
        return name, shape, self._number("I"), self._number("Q")

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if kind not in set(GGMLQuantizationType):
            raise UserError(f"the tensor {name!r} has the unknown type {kind}")
        quantization = GGMLQuantizationType(kind)
        if not _can_be_dequantised(quantization.name):
            raise UserError(
                f"the tensor {name!r} is stored as {quantization.name}, which the library gguf does not dequantise"
            )
        block, block_bytes = GGML_QUANT_SIZES[quantization]
        if min(shape) < 1 or shape[-1] % block:
            raise UserError(
                f"the tensor {name!r} has shape {shape}, which blocks of {block} ({quantization.name}) cannot fill"
            )
        row_bytes = shape[-1] // block * block_bytes
        if offset % 4 or offset + math.prod(shape[:-1]) * row_bytes > self.size:
            raise UserError(
                f"the tensor {name!r} {shape} {quantization.name} would end at byte "
                f"{offset + math.prod(shape[:-1]) * row_bytes:,} of {self.size:,}: cut short?"
            )
        return GgufTensor(name, shape, quantization.name, offset, row_bytes)

    def _must_fit(self, count: int, least_bytes: int, what: str) -> None:
        if count * least_bytes > self.size - self.at:
            raise UserError(
                f"the header promises {count:,} {what}, which {self.size - self.at:,} bytes cannot hold: cut "
                "short, or not a GGUF file"
            )

    def _number(self, form: str) -> Any:
        size = struct.calcsize(f"<{form}")
        self._must_fit(1, size, "more number")
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += size
        return value

    def _string(self) -> str:
        length = self._number("Q")
        self._must_fit(length, 1, "bytes of text")
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise UserError(f"a text in its header is not UTF-8: {raw[:40]!r}") from None

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise UserError(f"a setting has the unknown type {kind}")
        return self._number(_SCALARS[kind])

    def _array(self) -> list[Any]:
        kind, count = self._number("I"), self._number("Q")
        if kind == _STRING:
            self._must_fit(count, 8, "texts")
            if count > _LONGEST_LIST:
                raise UserError(f"a list of {count:,} texts is longer than any vocabulary")
            return [self._string() for _ in range(count)]
        if kind not in _SCALARS:
            raise UserError(f"a list of the type {kind} is not understood")
        size = struct.calcsize(f"<{_SCALARS[kind]}")
        self._must_fit(count, size, "numbers")
        if count > _LONGEST_LIST:
            raise UserError(f"a list of {count:,} numbers is longer than any vocabulary")
        values = struct.unpack_from(f"<{count}{_SCALARS[kind]}", self.data, self.at)
        self.at += count * size
        return list(values)
