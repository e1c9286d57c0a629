"""Carries out a plan: the trained weights into another layout's parameters, in place, within the memory of two buckets.

Ordering contract: the source's weights do not change between the start of `run` and its return, which is on no rank
before all ranks have what they need.

How parameters are written: with `ops.assign`, `copy_` or row assignment, which compiled graphs see on every device;
after `set_data` they would go on with the old weights. Between ranks that share a CPU's memory, straight into the
memory that the compiled graphs read, which `Parameter.asnumpy` shows without a copy: the operators cost several times
the copy itself (docs/parallel.md).
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from mindspore import Parameter, Tensor, ops

from mindrlhf_lite.parallel.mesh import Axis, gather_objects
from mindrlhf_lite.reshard.blocks import Block, blocks_of_receiver
from mindrlhf_lite.reshard.plan import Plan
from mindrlhf_lite.reshard.transports import Location, Source, Transport

BUCKET_BYTES = 8 << 20
_MESSAGES_PER_BUCKET = 8  # a broadcast on CPU holds up to six copies of its message
_LARGE = 2 << 20  # from this size on `copy_` is faster than `assign`


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

    def view(self, name: str) -> np.ndarray:
        return self.parameters[name].asnumpy()

    def locate(self, name: str) -> Location:
        view = self.view(name)
        return Location(self._pid, view.shape, address=view.ctypes.data)

    def read(self, name: str, region: tuple[slice, ...], out: np.ndarray) -> None:
        out[...] = self.view(name)[region]


def write_rows(parameter: Parameter, start: int, values: np.ndarray) -> None:
    """parameter[start : start + len(values)] = values, in place, seen by compiled graphs; returns when it is done."""
    tensor = Tensor.from_numpy(values)
    if len(values) < parameter.shape[0]:
        parameter[start : start + len(values)] = tensor
    elif values.nbytes >= _LARGE:
        parameter.copy_(tensor)
    else:
        ops.assign(parameter, tensor)


class Resharder:
    """One direction of weights between two layouts on this rank, planned once.

    Args:
        rank: this rank.
        world: all ranks; None: only this one.
        destination: this rank's parameters by buffer name, as the plan's destination names them.
        bucket_bytes: half of what a reshard may allocate; a collective's messages are an eighth of a bucket.
    """

    def __init__(
        self,
        plan: Plan,
        rank: int,
        world: Axis | None,
        destination: Mapping[str, Parameter],
        transport: Transport,
        bucket_bytes: int = BUCKET_BYTES,
    ):
        self.plan, self.rank, self.world, self.destination, self.transport = plan, rank, world, destination, transport
        self._message_bytes = (
            bucket_bytes if transport.writes_in_place else max(1, bucket_bytes // _MESSAGES_PER_BUCKET)
        )
        self.blocks = blocks_of_receiver(plan, rank, self._message_bytes)
        self._messages = self._order()
        largest = max([sum(region.num_bytes for region in block.regions) for block in self.blocks], default=0)
        self._bucket_bytes, self._bucket_size = bucket_bytes, 0 if transport.writes_in_place else largest // 4

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
        self.transport.start(source)
        bucket = np.empty(self._bucket_size, np.float32)
        for _, receiver, block in self._messages:
            if receiver == self.rank:
                self._receive(source, block, bucket)
            else:
                self.transport.send(block.pieces_from(self.rank), receiver)
        del bucket
        sums = self._checksums(source) if is_checked else ({}, {})
        everyone = gather_objects(self.world, sums)  # also: no rank goes on before all have read
        if is_checked:
            self._compare(everyone)
        return Moved(
            int(self.plan.received_bytes[self.rank]),
            int(self.plan.copied_bytes[self.rank]),
            time.perf_counter() - start,
        )

    def _receive(self, source: Source, block: Block, bucket: np.ndarray) -> None:
        """Fills one block. Without a bucket the pieces go straight into the parameters' memory."""
        views = self._views(block, bucket)
        filled = list(zip(block.regions, views, strict=True))
        for sender in block.senders:  # the order in which the senders' messages go out
            pieces = [
                (piece, view[piece.destination])
                for region, view in filled
                for piece in region.pieces
                if piece.sender == sender
            ]
            self.transport.receive([piece for piece, _ in pieces], sender, [out for _, out in pieces])
        for region, view in filled:
            for piece in region.pieces:
                if piece.sender == self.rank:
                    source.read(piece.source_buffer, piece.source, view[piece.destination])
        if self.transport.writes_in_place:
            return
        for region, view in filled:
            write_rows(self.destination[region.buffer], region.rows[0], view)
        for region in block.regions:
            self.destination[region.buffer].asnumpy()  # waits: the bucket is filled again next

    def _views(self, block: Block, bucket: np.ndarray) -> list[np.ndarray]:
        """Where each region of a block is assembled: in the parameter itself, or in the bucket."""
        if self.transport.writes_in_place:
            return [
                self.destination[region.buffer].asnumpy()[region.rows[0] : region.rows[1]] for region in block.regions
            ]
        offset, views = 0, []
        for region in block.regions:
            size = region.num_bytes // 4
            views.append(bucket[offset : offset + size].reshape(region.shape))
            offset += size
            if sum(piece.num_bytes for piece in region.pieces) < region.num_bytes:
                views[-1][...] = 0  # the padding of a vocabulary
        return views

    def _checksums(self, source: Source) -> tuple[dict[int, int], dict[int, int]]:
        """CRC-32 of what went to each other rank, and of what came from each, read back from the destination; pieces in
        plan order.
        """
        sent: dict[int, int] = {}
        for piece in self.plan.pieces_sent_by(self.rank):
            for rows in _row_ranges(piece.source, self._bucket_bytes // _MESSAGES_PER_BUCKET):
                values = np.empty([s.stop - s.start for s in rows], np.float32)
                source.read(piece.source_buffer, rows, values)
                sent[piece.receiver] = zlib.crc32(values.data, sent.get(piece.receiver, 0))
        received: dict[int, int] = {}
        for piece in self.plan.pieces_received_by(self.rank):
            if piece.sender != self.rank:
                values = self.destination[piece.destination_buffer].asnumpy()
                for rows in _row_ranges(piece.destination, self._bucket_bytes // _MESSAGES_PER_BUCKET):
                    received[piece.sender] = zlib.crc32(
                        np.ascontiguousarray(values[rows]).data, received.get(piece.sender, 0)
                    )
        return sent, received

    def _compare(self, everyone: list[tuple[dict[int, int], dict[int, int]]]) -> None:
        for receiver, (_, received) in enumerate(everyone):
            for sender, checksum in received.items():
                if everyone[sender][0][receiver] != checksum:
                    raise RuntimeError(
                        f"reshard: what rank {receiver} received from rank {sender} differs from what was sent "
                        "(CRC-32); the rollout weights are broken"
                    )


def _row_ranges(region: tuple[slice, ...], limit_bytes: int) -> Iterator[tuple[slice, ...]]:
    """Cuts a region into row ranges of at most `limit_bytes` (or one row)."""
    row_bytes = 4 * int(np.prod([s.stop - s.start for s in region[1:]], dtype=np.int64))
    step = max(1, limit_bytes // row_bytes)
    for start in range(region[0].start, region[0].stop, step):
        yield (slice(start, min(start + step, region[0].stop)), *region[1:])
