"""Tensors of one file, read and written a piece at a time, whatever the file's format.

The libraries want a whole file in memory, twice where they write; here a piece is 16 MiB, whatever the size of the
model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.durable import place
from mindrlhf_lite.models.stored_numbers import STORED, stored, widen_bfloat16
from mindrlhf_lite.parallel.layout import Box

PIECE_BYTES = 16 << 20
OnTensor = Callable[[int], None]  # called with how many more tensors are written


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
        if entry.dtype not in STORED:
            raise UserError(f"{self.path}: {name} has dtype {entry.dtype}; supported: {', '.join(STORED)}")
        dtype, width, (first, last) = (
            np.dtype(STORED[entry.dtype]),
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


@dataclass(frozen=True)
class TensorToWrite:
    """Example: TensorToWrite("lm_head.weight", "BF16", (151936, 896), lambda start, stop: weights[start:stop])"""

    name: str
    dtype: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], np.ndarray]  # float32 rows start..stop of the first dimension

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(STORED[self.dtype]).itemsize

    def write(self, file: BinaryIO, first: int, last: int) -> None:
        """Rows first..last, a piece at a time."""
        row_bytes = self.nbytes // max(1, self.shape[0])
        step = max(1, PIECE_BYTES // max(1, row_bytes))
        for start in range(first, last, step):
            values = self.rows(start, min(start + step, last))
            file.write(np.ascontiguousarray(stored(values, self.dtype, self.name)).data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file under a temporary name, renamed when all is well, and removed when not."""
    scratch = path.with_name(path.name + ".tmp")
    try:
        with scratch.open("wb") as file:
            yield file
        place(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def say_nothing(count: int) -> None:
    pass
