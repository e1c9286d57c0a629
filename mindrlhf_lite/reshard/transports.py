"""How bytes get from one rank's buffers into another's bucket.

`CollectiveTransport` works wherever MindSpore's broadcast does. `SharedMemoryTransport` serves ranks of one host on
CPU: a receiver reads the sender's parameters where they lie, in the sender's memory (process_vm_readv, Linux) or, while
they are swapped out, in its spill file, into its own parameters' memory. No bytes are staged and no file is written.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from mindrlhf_lite.models.zeros import zeros
from mindrlhf_lite.parallel.collectives import transfer
from mindrlhf_lite.parallel.mesh import Axis, Mesh, gather_objects
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


@dataclass(frozen=True)
class Place:
    """A region of a parameter on its device."""

    parameter: Parameter
    region: tuple[slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(part.stop - part.start for part in self.region)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def write(self, values: Tensor) -> None:
        if is_on_host():
            self.parameter.asnumpy()[self.region] = values.asnumpy()
            return
        view: Tensor = self.parameter
        for dimension, part in enumerate(self.region):
            view = view.narrow(dimension, part.start, part.stop - part.start)
        view.copy_(values)

    def read(self) -> np.ndarray:
        """A copy on the host."""
        return cut(self.parameter, self.region).asnumpy()


def is_on_host() -> bool:
    """Whether parameters are in the host's memory, where numpy can write them."""
    return bool(ms.get_context("device_target") == "CPU")


def cut(parameter: Parameter, region: tuple[slice, ...]) -> Tensor:
    """A copy of a region, on the parameter's device."""
    if is_on_host():
        return Tensor(np.ascontiguousarray(parameter.asnumpy()[region]))
    return parameter[region]


class Source(Protocol):
    """The weights that a reshard reads: resident or swapped out."""

    def locate(self, name: str) -> Location:
        """Where buffer `name` is now."""
        ...

    def read(self, name: str, region: tuple[slice, ...], out: np.ndarray) -> None:
        """Copies a region of this rank's own buffer into `out`, of its type and the region's shape."""
        ...

    def tensor(self, name: str, region: tuple[slice, ...]) -> Tensor:
        """A region of this rank's own buffer, on its device."""
        ...

    def names(self) -> Sequence[str]: ...


class Transport(Protocol):
    """Moves the pieces of one message, from `sender` to the receiver; both ranks call, in one order on all ranks."""

    name: str
    pulls: bool  # whether only the receiver acts
    is_of_host: bool  # whether it fills numpy views of the parameters' own memory; else `Place`s

    def start(self, source: Source) -> None:
        """Before the first message of a reshard; every rank calls it."""
        ...

    def send(self, pieces: Sequence[Piece], receiver: int) -> None: ...

    def receive(self, pieces: Sequence[Piece], sender: int, outs: Sequence[Any]) -> None:
        """Fills `outs`, one a piece."""
        ...


class CollectiveTransport:
    """A broadcast in the group of sender and receiver, packed, of tensors that stay on their device.

    Args:
        mesh: whose pairs of ranks are made as messages need them.
    """

    name, pulls, is_of_host = "collective", False, False

    def __init__(self, mesh: Mesh):
        self.mesh = mesh

    def start(self, source: Source) -> None:
        self.source = source

    def send(self, pieces: Sequence[Piece], receiver: int) -> None:
        parts = [self.source.tensor(piece.source_buffer, piece.source).reshape(-1) for piece in pieces]
        packed = ops.concat(parts)
        self._broadcast(packed, receiver, is_sender=True)
        self._confirm(packed, receiver, is_sender=False)

    def receive(self, pieces: Sequence[Piece], sender: int, outs: Sequence[Place]) -> None:
        packed, start = zeros((sum(out.size for out in outs),), outs[0].parameter.dtype), 0
        self._broadcast(packed, sender, is_sender=False)
        for out in outs:
            out.write(packed[start : start + out.size].reshape(out.shape))
            start += out.size
        self._confirm(outs[-1].parameter, sender, is_sender=True)

    def _broadcast(self, packed: Tensor, other: int, is_sender: bool) -> None:
        axis = self.mesh.pair(other)
        transfer(packed, axis, axis.index if is_sender else 1 - axis.index)

    def _confirm(self, last: Tensor, other: int, is_sender: bool) -> None:
        """The receiver says that a message has arrived, or they would pile up in a slow one's memory; on CPU, where
        nothing else keeps ranks in step. Args: last: what the message ends with, to be waited for.
        """
        if is_on_host():
            last.asnumpy()
            word = Tensor(np.zeros(1, np.float32))
            self._broadcast(word, other, is_sender)
            word.asnumpy()


class SharedMemoryTransport:
    """The receiver reads the sender's memory; the sender only says where its buffers are."""

    name, pulls, is_of_host = "shared_memory", True, True

    def __init__(self, world: Axis | None):
        self.world = world
        self._own: dict[str, Location] | None = None
        self._locations: list[dict[str, Location]] = []
        self._libc = ctypes.CDLL(None, use_errno=True)
        # where Yama restricts who may read a process's memory, siblings are allowed by name only
        self._libc.prctl(_PR_SET_PTRACER, ctypes.c_ulong(_PR_SET_PTRACER_ANY), 0, 0, 0)

    def start(self, source: Source) -> None:
        own = {name: source.locate(name) for name in source.names()}
        told = None if own == self._own else own
        changed = gather_objects(self.world, told, dict[str, Location] | None)  # also: every rank's weights are final
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
        theirs, ours = _runs(location.address, location.shape, region, out.itemsize), _runs_of(out)
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


def _runs(address: int, shape: Sequence[int], region: tuple[slice, ...], item: int) -> np.ndarray:
    """(address, bytes) of every row of a region of a buffer at `address`, whose numbers take `item` bytes."""
    width = int(np.prod(shape[1:], dtype=np.int64))
    row = region[0]
    count, start = row.stop - row.start, address + item * row.start * width
    first, length = (region[1].start, region[1].stop - region[1].start) if len(region) > 1 else (0, 1)
    result = np.empty((count, 2), np.uint64)
    result[:, 0] = start + item * first + item * width * np.arange(count)
    result[:, 1] = item * length
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
    """Copies a region of an array that starts at `offset` of a file into `out`, of the same type, in place."""
    width, rows, item = int(np.prod(shape[1:], dtype=np.int64)), region[0], out.itemsize
    is_whole_rows = len(region) == 1 or region[1].stop - region[1].start == width
    if is_whole_rows and out.flags.c_contiguous:
        read_exactly(descriptor, out.data.cast("B"), offset + item * rows.start * width)
        return
    step = max(1, (1 << 20) // (item * width))  # rows read whole through a megabyte: cheaper than one call a row
    for start in range(rows.start, rows.stop, step):
        stop = min(start + step, rows.stop)
        block = np.empty((stop - start, width), out.dtype)
        read_exactly(descriptor, block.data.cast("B"), offset + item * start * width)
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
