"""Reads and writes .safetensors: a JSON header with every tensor's place, then the bytes of all."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.json_file import no_key_twice, parse_json
from mindrlhf_lite.models.stored_numbers import STORED
from mindrlhf_lite.models.tensor_files import OnTensor, TensorEntry, TensorToWrite, replacing, say_nothing


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
    if dtype in STORED and last - first != math.prod(shape) * np.dtype(STORED[dtype]).itemsize:
        raise ValueError(f"{last - first} bytes of {dtype} {shape}")
    return TensorEntry(dtype, tuple(shape), ((start + first, last - first),))


def write_safetensors(
    path: Path, tensors: Sequence[TensorToWrite], framework: str = "pt", progress: OnTensor = say_nothing
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
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in list(header)[1:]:
            by_name[name].write(file, 0, by_name[name].shape[0])
            progress(1)
