"""A plan as one receiver carries it out: blocks of at most a bucket, each with the pieces that fill it.

A block is some rows of one or several destination buffers. The order of blocks is the order of messages on every rank.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from mindrlhf_lite.reshard.plan import Piece, Plan
from mindrlhf_lite.shapes.parameters import FLOAT32_BYTES

Rows = tuple[int, int]


@dataclass(frozen=True)
class Slab:
    """Rows of one destination buffer and what fills them; pieces' `destination` counts rows from `rows[0]`."""

    buffer: str
    rows: Rows
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def num_bytes(self) -> int:
        return FLOAT32_BYTES * _size(self.shape)


@dataclass(frozen=True)
class Block:
    """Slabs that share a bucket."""

    slabs: tuple[Slab, ...]

    def pieces_from(self, sender: int) -> list[Piece]:
        return [piece for slab in self.slabs for piece in slab.pieces if piece.sender == sender]

    @property
    def senders(self) -> list[int]:
        """Other ranks that send for this block, rising."""
        return sorted({piece.sender for slab in self.slabs for piece in slab.pieces if piece.sender != piece.receiver})


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


def _cut(piece: Piece, rows: Rows) -> Piece | None:
    """The piece's part within destination rows [start, stop), counted from `start`; None if there is none."""
    own = piece.destination[0]
    start, stop = max(own.start, rows[0]), min(own.stop, rows[1])
    if start >= stop:
        return None
    source_start = piece.source[0].start + start - own.start
    return replace(
        piece,
        source=(slice(source_start, source_start + stop - start), *piece.source[1:]),
        destination=(slice(start - rows[0], stop - rows[0]), *piece.destination[1:]),
        num_bytes=piece.num_bytes // (own.stop - own.start) * (stop - start),
    )


def _slabs(buffer: str, shape: tuple[int, ...], pieces: list[Piece], bucket_bytes: int) -> list[Slab]:
    row_bytes = FLOAT32_BYTES * _size(shape[1:])
    step = max(1, bucket_bytes // row_bytes)
    slabs = []
    for start in range(0, shape[0], step):
        rows = start, min(start + step, shape[0])
        cut = tuple(part for piece in pieces if (part := _cut(piece, rows)) is not None)
        if cut:
            slabs.append(Slab(buffer, rows, (rows[1] - rows[0], *shape[1:]), cut))
    return slabs


def blocks_of_receiver(plan: Plan, rank: int, bucket_bytes: int) -> list[Block]:
    """All blocks that `rank` fills, in buffer order. A row longer than a bucket is a block of its own."""
    by_buffer: dict[str, list[Piece]] = defaultdict(list)
    shapes: dict[str, tuple[int, ...]] = {}
    for transfer in plan.transfers:
        shapes[transfer.destination.buffer.name] = transfer.destination.buffer.shape
    for piece in plan.pieces_received_by(rank):
        by_buffer[piece.destination_buffer].append(piece)
    blocks: list[list[Slab]] = []
    filled = bucket_bytes
    for buffer, pieces in by_buffer.items():
        for slab in _slabs(buffer, shapes[buffer], pieces, bucket_bytes):
            if filled + slab.num_bytes > bucket_bytes:
                blocks.append([])
                filled = 0
            blocks[-1].append(slab)
            filled += slab.num_bytes
    return [Block(tuple(slabs)) for slabs in blocks]
