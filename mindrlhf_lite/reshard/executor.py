"""Carries out a plan: the trained weights into another layout's parameters, in place, within the memory of two buckets.
On a device nothing but checksums passes through the host.

Ordering contract: the source's weights do not change between the start of `run` and its return, which is on no rank
before all ranks have what they need.

How parameters are written: through views of their own memory, which compiled graphs see on every device; after
`set_data` they would go on with the old weights. On CPU these are numpy's views: the operators cost several times the
copy itself (docs/parallel.md), and cannot write columns. Assigning to a region of a parameter is no way: it makes the
parameter itself a view (MindSpore 2.9), which no operator may then assign to.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from mindrlhf_lite.models.precision import FLOAT32, Precision, to_storage
from mindrlhf_lite.parallel.mesh import Axis, gather_objects, is_simulated
from mindrlhf_lite.reshard.blocks import Block, blocks_of_receiver
from mindrlhf_lite.reshard.buckets import bytes_of_bucket, message_bytes
from mindrlhf_lite.reshard.plan import Plan
from mindrlhf_lite.reshard.transports import Location, Place, Source, Transport, cut, is_on_host
from mindrlhf_lite.shapes.parameters import FLOAT32_BYTES


@dataclass(frozen=True)
class Moved:
    """What a reshard moved on this rank."""

    received_bytes: int  # from other ranks
    copied_bytes: int  # into the destination's parameters, local copies included
    seconds: float


class ResidentSource:
    """Weights that are in memory: MindSpore parameters, or arrays in tests. On CPU `asnumpy` is a view of the parameter
    itself.
    """

    def __init__(self, parameters: Mapping[str, Parameter]):
        self.parameters, self._pid = parameters, os.getpid()

    def names(self) -> list[str]:
        return list(self.parameters)

    def locate(self, name: str) -> Location:
        view = self.parameters[name].asnumpy()
        return Location(self._pid, view.shape, address=view.ctypes.data)

    def read(self, name: str, region: tuple[slice, ...], out: np.ndarray) -> None:
        out[...] = self.parameters[name].asnumpy()[region]

    def tensor(self, name: str, region: tuple[slice, ...]) -> Tensor:
        return cut(self.parameters[name], region)


class _Converted:
    """A source as the destination stores it."""

    def __init__(self, source: Source, source_type: np.dtype, precision: Precision):
        self.source, self.source_type, self.precision = source, source_type, precision
        self.names, self.locate, self._to_storage = source.names, source.locate, to_storage(precision)

    def array(self, values: np.ndarray) -> np.ndarray:
        return self.precision.rounded(values.astype(np.float32))

    def read(self, name: str, region: tuple[slice, ...], out: np.ndarray) -> None:
        values = np.empty(out.shape, self.source_type)
        self.source.read(name, region, values)
        out[...] = self.array(values)

    def tensor(self, name: str, region: tuple[slice, ...]) -> Tensor:
        return self._to_storage(self.source.tensor(name, region))


class Resharder:
    """One direction of weights between two layouts on this rank, planned once. Where the two store different types,
    what is sent has the destination's.

    Args:
        rank: this rank.
        world: all ranks; None: only this one.
        destination: this rank's parameters by buffer name, as the plan's destination names them.
        bucket_bytes: half of what a reshard may allocate, counted as if every number took four bytes (`buckets`); 0:
            as the device asks.
        precisions: of the source's parameters and of the destination's.
    """

    def __init__(
        self,
        plan: Plan,
        rank: int,
        world: Axis | None,
        destination: Mapping[str, Parameter],
        transport: Transport,
        bucket_bytes: int = 0,
        precisions: tuple[Precision, Precision] = (FLOAT32, FLOAT32),
    ):
        self.plan, self.rank, self.world, self.destination, self.transport = plan, rank, world, destination, transport
        bucket = bucket_bytes or bytes_of_bucket(0, is_on_host())
        self._part_bytes = message_bytes(bucket, is_on_host())
        self._message_bytes = bucket if transport.is_of_host else self._part_bytes
        self.blocks = blocks_of_receiver(plan, rank, self._message_bytes)
        self._messages = self._order()
        types = [np.dtype(ms.dtype_to_nptype(precision.storage)) for precision in precisions]
        self._source_type, self._type = types
        self._converts, self._precision = precisions[0].param != precisions[1].param, precisions[1]

    def _order(self) -> list[tuple[int, int, Block]]:
        """(block number, receiver, block) of all messages that this rank has a part in, in the order that all ranks
        keep.
        """
        if self.transport.pulls:
            return [(number, self.rank, block) for number, block in enumerate(self.blocks)]
        receivers = {int(r) for t in self.plan.transfers for s, r in zip(t.senders, t.receivers) if s == self.rank} | {
            self.rank
        }
        messages = [
            (number, receiver, block)
            for receiver in sorted(receivers)
            for number, block in enumerate(
                self.blocks if receiver == self.rank else blocks_of_receiver(self.plan, receiver, self._message_bytes)
            )
            if receiver == self.rank or block.pieces_from(self.rank)
        ]
        return sorted(messages, key=lambda message: message[:2])

    def run(self, source: Source, is_checked: bool = True) -> Moved:
        """Moves all weights; every rank calls it.

        Raises:
            RuntimeError: is_checked, and a checksum of what was received differs from what was sent.
        """
        start = time.perf_counter()
        source = _Converted(source, self._source_type, self._precision) if self._converts else source
        self.transport.start(source)
        for _, receiver, block in self._messages:
            if receiver == self.rank:
                self._receive(source, block)
            else:
                self.transport.send(block.pieces_from(self.rank), receiver)
        if not is_on_host():
            ms.runtime.synchronize()
        is_checked = is_checked and not is_simulated()  # there are no values
        sums = self._checksums(source) if is_checked else ({}, {})
        everyone = gather_objects(
            self.world, sums, tuple[dict[int, int], dict[int, int]]
        )  # also: no rank goes on before all have read
        if is_checked:
            self._compare(everyone)
        return Moved(
            self.in_bytes(int(self.plan.received_bytes[self.rank])),
            self.in_bytes(int(self.plan.copied_bytes[self.rank])),
            time.perf_counter() - start,
        )

    def in_bytes(self, planned: int) -> int:
        """What takes so many bytes as the plan counts, in the destination's type."""
        return planned // FLOAT32_BYTES * self._type.itemsize

    def _receive(self, source: Source, block: Block) -> None:
        """Fills one block, in the memory of the parameters themselves."""
        filled = [
            (piece, self._place(slab.buffer, slab.rows[0], piece.destination))
            for slab in block.slabs
            for piece in slab.pieces
        ]
        for sender in block.senders:  # the order in which the senders' messages go out
            pieces, outs = zip(*[(piece, out) for piece, out in filled if piece.sender == sender], strict=True)
            if isinstance(source, _Converted) and self.transport.pulls:  # from memory of the source's type
                theirs = [np.empty(out.shape, self._source_type) for out in outs]
                self.transport.receive(pieces, sender, theirs)
                for out, values in zip(outs, theirs, strict=True):
                    out[...] = source.array(values)
            else:
                self.transport.receive(pieces, sender, outs)
        for piece, out in filled:
            if piece.sender != self.rank:
                continue
            if self.transport.is_of_host:
                source.read(piece.source_buffer, piece.source, out)
            else:
                out.write(source.tensor(piece.source_buffer, piece.source))

    def _place(self, name: str, first_row: int, region: tuple[slice, ...]) -> Any:
        """Where a piece goes, as its transport takes it. Args: region: rows counted from `first_row`."""
        rows, parameter = region[0], self.destination[name]
        region = (slice(rows.start + first_row, rows.stop + first_row), *region[1:])
        return parameter.asnumpy()[region] if self.transport.is_of_host else Place(parameter, region)

    def _checksums(self, source: Source) -> tuple[dict[int, int], dict[int, int]]:
        """CRC-32 of what went to each other rank, and of what came from each, read back from the destination; pieces in
        plan order.
        """
        sent: dict[int, int] = {}
        for piece in self.plan.pieces_sent_by(self.rank):
            for rows in _row_ranges(piece.source, self._part_bytes):
                if self.transport.is_of_host:
                    values = np.empty([s.stop - s.start for s in rows], self._type)
                    source.read(piece.source_buffer, rows, values)
                else:
                    values = source.tensor(piece.source_buffer, rows).asnumpy()
                sent[piece.receiver] = _crc32(values, sent.get(piece.receiver, 0))
        received: dict[int, int] = {}
        for piece in self.plan.pieces_received_by(self.rank):
            if piece.sender != self.rank:
                for rows in _row_ranges(piece.destination, self._part_bytes):
                    place = self._place(piece.destination_buffer, 0, rows)
                    values = place if self.transport.is_of_host else place.read()
                    received[piece.sender] = _crc32(values, received.get(piece.sender, 0))
        return sent, received

    def _compare(self, everyone: list[tuple[dict[int, int], dict[int, int]]]) -> None:
        for receiver, (_, received) in enumerate(everyone):
            for sender, checksum in received.items():
                if everyone[sender][0][receiver] != checksum:
                    raise RuntimeError(
                        f"reshard: what rank {receiver} received from rank {sender} differs from what was sent "
                        "(CRC-32); the rollout weights are broken"
                    )


def _crc32(values: np.ndarray, so_far: int) -> int:
    return zlib.crc32(np.ascontiguousarray(values).view(np.uint8).data, so_far)


def _row_ranges(region: tuple[slice, ...], limit_bytes: int) -> Iterator[tuple[slice, ...]]:
    """Cuts a region into row ranges of at most `limit_bytes` (or one row)."""
    row_bytes = FLOAT32_BYTES * int(np.prod([s.stop - s.start for s in region[1:]], dtype=np.int64))
    step = max(1, limit_bytes // row_bytes)
    for start in range(region[0].start, region[0].stop, step):
        yield (slice(start, min(start + step, region[0].stop)), *region[1:])
