"""How bytes get from one rank's buffers into another's bucket.

`CollectiveTransport` works wherever MindSpore's broadcast does. `SharedMemoryTransport` serves ranks of one host on
CPU: a receiver reads the sender's parameters where they lie, in the sender's memory (process_vm_readv, Linux) or, while
they are swapped out, in its spill file, into its own parameters' memory. No bytes are staged and no file is written.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mindrlhf_lite.parallel.collectives import transfer
from mindrlhf_lite.parallel.mesh import Axis, gather_objects
from mindrlhf_lite.reshard.plan import Piece

_PR_SET_PTRACER, _PR_SET_PTRACER_ANY, _MAX_RUNS = 0x59616D61, -1, 1024


@dataclass(frozen=True)
class Location:
    """Where a buffer's bytes are: at `address` of process `pid`, or at `offset` of the open file `descriptor` of that
    process.
    """

    pid: int
    shape: tuple[int, ...]
    address: int = 0
    descriptor: int = -1
    offset: int = 0


class Source(Protocol):
    """The weights that a reshard reads: resident or swapped out."""

    def locate(self, name: str) -> Location:
        """Where buffer `name` is now."""
        ...

    def read(self, name: str, region: tuple[slice, ...], out: np.ndarray) -> None:
        """Copies a region of this rank's own buffer into `out`, float32 of the region's shape."""
        ...

    def view(self, name: str) -> np.ndarray | None:
        """Buffer `name` itself where it is in this process's memory, else None."""
        ...

    def names(self) -> Sequence[str]: ...


class Transport(Protocol):
    """Moves the pieces of one message, from `sender` to the receiver; both ranks call, in one order on all ranks."""

    name: str
    pulls: bool  # whether only the receiver acts
    writes_in_place: bool  # whether pieces may be received into the parameters' own memory

    def start(self, source: Source) -> None:
        """Before the first message of a reshard; every rank calls it."""
        ...

    def send(self, pieces: Sequence[Piece], receiver: int) -> None: ...

    def receive(self, pieces: Sequence[Piece], sender: int, outs: Sequence[np.ndarray]) -> None:
        """Fills `outs`, one float32 view of the bucket a piece."""
        ...


class CollectiveTransport:
    """A broadcast in the group of sender and receiver, packed; the receiver confirms each, or messages would pile up in
    a slow one's memory.
    """

    name, pulls, writes_in_place = "collective", False, False

    def __init__(self, pairs: Mapping[tuple[int, int], Axis], rank: int):
        self.pairs, self.rank = pairs, rank

    def start(self, source: Source) -> None:
        self.source = source

    def _broadcast(self, packed: np.ndarray, sender: int, receiver: int) -> np.ndarray:
        from mindspore import Tensor

        axis, tensor = self.pairs[min(sender, receiver), max(sender, receiver)], Tensor.from_numpy(packed)
        transfer(tensor, axis, axis.ranks.index(sender))
        return tensor.asnumpy()

    def send(self, pieces: Sequence[Piece], receiver: int) -> None:
        packed, start = np.empty(sum(piece.num_bytes for piece in pieces) // 4, np.float32), 0
        for piece in pieces:
            size = piece.num_bytes // 4
            self.source.read(
                piece.source_buffer,
                piece.source,
                packed[start : start + size].reshape([s.stop - s.start for s in piece.source]),
            )
            start += size
        self._broadcast(packed, self.rank, receiver)
        self._broadcast(np.zeros(1, np.float32), receiver, self.rank)

    def receive(self, pieces: Sequence[Piece], sender: int, outs: Sequence[np.ndarray]) -> None:
        packed, start = (
            self._broadcast(np.empty(sum(piece.num_bytes for piece in pieces) // 4, np.float32), sender, self.rank),
            0,
        )
        for out in outs:
            out[...] = packed[start : start + out.size].reshape(out.shape)
            start += out.size
        self._broadcast(np.zeros(1, np.float32), self.rank, sender)


class SharedMemoryTransport:
    """The receiver reads the sender's memory; the sender only says where its buffers are."""

    name, pulls, writes_in_place = "shared_memory", True, True

    def __init__(self, world: Axis | None):
        self.world = world
        self._own: dict[str, Location] | None = None
        self._locations: list[dict[str, Location]] = []
        self._libc = ctypes.CDLL(None, use_errno=True)
        # where Yama restricts who may read a process's memory, siblings are allowed by name only
        self._libc.prctl(_PR_SET_PTRACER, ctypes.c_ulong(_PR_SET_PTRACER_ANY), 0, 0, 0)

    def start(self, source: Source) -> None:
        own = {name: source.locate(name) for name in source.names()}
        changed = gather_objects(self.world, None if own == self._own else own)  # also: every rank's weights are final
        self._own = own
        self._locations = [
            old if new is None else new for old, new in zip(self._locations or changed, changed, strict=True)
        ]

    def send(self, pieces: Sequence[Piece], receiver: int) -> None:
        """Nothing to do: receivers read."""

    def receive(self, pieces: Sequence[Piece], sender: int, outs: Sequence[np.ndarray]) -> None:
        for piece, out in zip(pieces, outs, strict=True):
            location = self._locations[sender][piece.source_buffer]
            if location.descriptor >= 0:
                with open(f"/proc/{location.pid}/fd/{location.descriptor}", "rb") as file:
                    read_region(file.fileno(), location.offset, location.shape, piece.source, out)
            else:
                self._read_memory(location, piece.source, out)

    def _read_memory(self, location: Location, region: tuple[slice, ...], out: np.ndarray) -> None:
        theirs, ours = _runs(location.address, location.shape, region), _runs_of(out)
        if (
            len(_merged(theirs)) == len(_merged(ours)) == 1
        ):  # whole rows on both sides, as most pieces are: pinning pages row by row costs more than the copy
            theirs, ours = _merged(theirs), _merged(ours)
        for start in range(0, len(theirs), _MAX_RUNS):
            remote, local = theirs[start : start + _MAX_RUNS], ours[start : start + _MAX_RUNS]
            wanted = int(remote[:, 1].sum())
            got = self._libc.process_vm_readv(
                ctypes.c_int(location.pid), ctypes.c_void_p(local.ctypes.data), ctypes.c_ulong(len(local)),
                ctypes.c_void_p(remote.ctypes.data), ctypes.c_ulong(len(remote)), ctypes.c_ulong(0),
            )  # fmt: skip
            if got != wanted:
                reason = os.strerror(ctypes.get_errno()) if got < 0 else f"{got} of {wanted} bytes"
                raise OSError(
                    f"cannot read the memory of process {location.pid}: {reason}; set "
                    "rl_config.reshard_transport=collective"
                )


def is_shared_memory_allowed() -> bool:
    """Whether a process here may read another's memory; asked of this process itself, containers may forbid it to
    all.
    """
    libc, value, copy = ctypes.CDLL(None, use_errno=True), np.array([7], np.int64), np.zeros(1, np.int64)
    if not hasattr(libc, "process_vm_readv"):
        return False
    ours, theirs = _runs_of(copy), _runs_of(value)
    got = libc.process_vm_readv(
        os.getpid(),
        ctypes.c_void_p(ours.ctypes.data),
        ctypes.c_ulong(1),
        ctypes.c_void_p(theirs.ctypes.data),
        ctypes.c_ulong(1),
        ctypes.c_ulong(0),
    )
    return bool(got == 8 and copy[0] == 7)


def _runs(address: int, shape: Sequence[int], region: tuple[slice, ...]) -> np.ndarray:
    """(address, bytes) of every row of a region of a contiguous float32 array at `address`, uint64 [rows, 2]."""
    width = int(np.prod(shape[1:], dtype=np.int64))
    row = region[0]
    count, start = row.stop - row.start, address + 4 * row.start * width
    first, length = (region[1].start, region[1].stop - region[1].start) if len(region) > 1 else (0, 1)
    result = np.empty((count, 2), np.uint64)
    result[:, 0] = start + 4 * first + 4 * width * np.arange(count)
    result[:, 1] = 4 * length
    return result


def _runs_of(out: np.ndarray) -> np.ndarray:
    result = np.empty((out.shape[0], 2), np.uint64)
    result[:, 0] = out.ctypes.data + out.strides[0] * np.arange(out.shape[0])
    result[:, 1] = out[0].nbytes
    return result


def _merged(runs: np.ndarray) -> np.ndarray:
    """One run where every row follows the one before, else the rows."""
    if len(runs) > 1 and (np.diff(runs[:, 0]) != runs[0, 1]).any():
        return runs
    return np.array([[runs[0, 0], runs[:, 1].sum()]], np.uint64)


def read_region(descriptor: int, offset: int, shape: Sequence[int], region: tuple[slice, ...], out: np.ndarray) -> None:
    """Copies a region of a float32 array that starts at `offset` of a file into `out`, in place."""
    width, rows = int(np.prod(shape[1:], dtype=np.int64)), region[0]
    is_whole_rows = len(region) == 1 or region[1].stop - region[1].start == width
    if is_whole_rows and out.flags.c_contiguous:
        read_exactly(descriptor, out.data.cast("B"), offset + 4 * rows.start * width)
        return
    step = max(1, (1 << 20) // (4 * width))  # rows read whole through a megabyte: cheaper than one call a row
    for start in range(rows.start, rows.stop, step):
        stop = min(start + step, rows.stop)
        block = np.empty((stop - start, width), np.float32)
        read_exactly(descriptor, block.data.cast("B"), offset + 4 * start * width)
        out[start - rows.start : stop - rows.start] = block[:, region[1]] if len(region) > 1 else block[:, 0]


def read_exactly(descriptor: int, view: memoryview, offset: int) -> None:
    """Fills `view` from a file.

    Raises:
        OSError: the file ends before.
    """
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count <= 0:
            raise OSError(f"spill file ended {len(view) - done} bytes early")
        done += count
