"""The reshard planner: from (source layout, destination layout) to who sends what to whom. Pure numpy; needs no device
and no ranks. Bytes are counted as if weights were float32.

Every region of a tensor that a destination buffer needs is cut along the borders of the source's boxes. A rank that
holds a region copies it locally; one that does not receives it from one holder, so the bytes received are exactly what
it needs and does not hold. Holders of the same region share the sending: the least loaded send first, and large regions
are cut into row ranges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.parallel.dims import Coordinates
from mindrlhf_lite.parallel.layout import Box, Buffer, Part, Strategy, buffers_at
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import FLOAT32_BYTES, parameter_specs

_PIECES_PER_RANK = 80  # a region is cut once it exceeds this share of what a rank sends on average


@dataclass(frozen=True)
class Holding:
    """A part of a buffer and the ranks that have it, all at the same place of a buffer of the same name."""

    buffer: Buffer
    part: Part
    ranks: np.ndarray  # int64, rising


@dataclass(frozen=True)
class Transfer:
    """One region of one tensor: every rank of `receivers` gets it from the rank at the same place of `senders`, itself
    where they are equal.

    Example: rank 3 has the region, rank 0 needs it from rank 2: receivers=[0, 3], senders=[2, 3]
    """

    tensor: str
    box: Box
    source: Holding
    destination: Holding
    receivers: np.ndarray
    senders: np.ndarray

    @property
    def num_bytes(self) -> int:
        return FLOAT32_BYTES * volume(self.box)


@dataclass(frozen=True)
class Piece:
    """A region as one receiver sees it: where it lies in the sender's buffer and where it goes in its own."""

    tensor: str
    source_buffer: str
    source: tuple[slice, ...]
    destination_buffer: str
    destination: tuple[slice, ...]
    sender: int
    receiver: int
    num_bytes: int


@dataclass
class Plan:
    """A whole reshard. `sent_bytes` and `received_bytes` are per rank, between ranks only; `copied_bytes` includes
    local copies.
    """

    num_ranks: int
    transfers: list[Transfer]
    replicas: list[np.ndarray]  # source ranks that hold the same, and so can send for each other
    sent_bytes: np.ndarray = field(init=False)
    received_bytes: np.ndarray = field(init=False)
    copied_bytes: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.sent_bytes, self.received_bytes, self.copied_bytes = (np.zeros(self.num_ranks, np.int64) for _ in range(3))
        for transfer in self.transfers:
            remote = transfer.senders != transfer.receivers
            np.add.at(self.sent_bytes, transfer.senders[remote], transfer.num_bytes)
            self.received_bytes[transfer.receivers[remote]] += transfer.num_bytes
            self.copied_bytes[transfer.receivers] += transfer.num_bytes

    @property
    def balance(self) -> float:
        """Bytes sent by the busiest rank over the mean of the ranks that hold the same: the largest such ratio, 1 at
        best.
        """
        return max(
            [float(sent.max() / sent.mean()) for ranks in self.replicas if (sent := self.sent_bytes[ranks]).any()],
            default=1.0,
        )

    def pieces_received_by(self, rank: int) -> Iterator[Piece]:
        """Local copies and receptions of `rank`, in plan order."""
        for transfer in self.transfers:
            place = int(np.searchsorted(transfer.receivers, rank))
            if place < len(transfer.receivers) and transfer.receivers[place] == rank:
                yield _piece(transfer, int(transfer.senders[place]), rank)

    def pieces_sent_by(self, rank: int) -> Iterator[Piece]:
        """What `rank` sends to others, in plan order."""
        for transfer in self.transfers:
            for place in np.flatnonzero(transfer.senders == rank):
                if transfer.receivers[place] != rank:
                    yield _piece(transfer, rank, int(transfer.receivers[place]))


def _piece(transfer: Transfer, sender: int, receiver: int) -> Piece:
    source, destination = _place(transfer.box, transfer.source.part), _place(transfer.box, transfer.destination.part)
    return Piece(
        transfer.tensor,
        transfer.source.buffer.name,
        source,
        transfer.destination.buffer.name,
        destination,
        sender,
        receiver,
        transfer.num_bytes,
    )


def _place(box: Box, part: Part) -> tuple[slice, ...]:
    """Where `box` of the tensor lies in the buffer of `part`."""
    starts = [start - part_start for (start, _), (part_start, _) in zip(box, part.box)]
    starts[0] += part.offset
    return tuple(slice(start, start + stop - begin) for start, (begin, stop) in zip(starts, box))


def volume(box: Box) -> int:
    volume = 1
    for start, stop in box:
        volume *= max(0, stop - start)
    return volume


def intersect(a: Box, b: Box) -> Box:
    return tuple((max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(a, b))


def holdings(config: ModelConfig, strategy: Strategy) -> dict[str, list[Holding]]:
    """Who has what, by tensor. Equal boxes at equal places are one holding with all their ranks."""
    dims, found = strategy.dims, defaultdict[str, dict[tuple, tuple[Buffer, Part, list[int]]]](dict)
    for stage in range(dims.pipeline):
        for tensor in range(dims.tensor):
            for data in range(dims.copies if strategy.splits_data else 1):  # other data ranks hold the same
                ranks = [dims.rank(d, tensor, stage) for d in ([data] if strategy.splits_data else range(dims.copies))]
                for buffer in buffers_at(config, strategy, Coordinates(data, tensor, stage)):
                    for part in buffer.parts:
                        if volume(part.box):
                            found[part.tensor].setdefault((buffer.name, part), (buffer, part, []))[2].extend(ranks)
    return {
        tensor: [Holding(buffer, part, np.array(sorted(ranks), np.int64)) for buffer, part, ranks in entries.values()]
        for tensor, entries in found.items()
    }


def make_plan(config: ModelConfig, source: Strategy, destination: Strategy, num_ranks: int | None = None) -> Plan:
    """Plans moving `config`'s weights from `source` to `destination`.

    Args:
        num_ranks: of the program, numbered alike in both layouts; by default the larger layout's.

    Raises:
        ValueError: no rank of the source has something that the destination needs.
    """
    num_ranks = num_ranks or max(source.dims.size, destination.dims.size)
    needed, held = holdings(config, destination), holdings(config, source)
    overlaps = list(_overlaps(needed, held))
    sent_on_average = sum(volume(box) * FLOAT32_BYTES * len(remote) for box, _, _, remote, _ in overlaps) / num_ranks
    limit = max(1 << 10, sent_on_average / _PIECES_PER_RANK)
    load, transfers = np.zeros(num_ranks, np.int64), []
    work = [cut for overlap in overlaps for cut in _cut(overlap, limit)]
    for box, has, wants, remote, local in sorted(
        work, key=lambda item: -volume(item[0])
    ):  # large ones first: small ones even out
        receivers, senders = local, local
        if len(remote):
            candidates = np.unique(np.concatenate([holding.ranks for holding in has]))
            order = candidates[np.argsort(load[candidates], kind="stable")]
            chosen = order[np.arange(len(remote)) % len(order)]
            np.add.at(load, chosen, volume(box) * FLOAT32_BYTES)
            receivers, senders = np.concatenate([local, remote]), np.concatenate([local, chosen])
        for holding in has:  # ranks of one box may keep it under different names: a tied head and the embedding
            mine = _is_among(senders, holding.ranks)
            if mine.any():
                order = np.argsort(receivers[mine])
                transfers.append(
                    Transfer(wants.part.tensor, box, holding, wants, receivers[mine][order], senders[mine][order])
                )
                receivers, senders = receivers[~mine], senders[~mine]
    dims = source.dims
    alike = (
        []
        if source.splits_data
        else [
            np.array([dims.rank(d, t, s) for d in range(dims.copies)])
            for t in range(dims.tensor)
            for s in range(dims.pipeline)
        ]
    )
    return Plan(num_ranks, transfers, alike)


@lru_cache(maxsize=1)
def last_plan(config: ModelConfig, source: Strategy, destination: Strategy, num_ranks: int) -> Plan:
    """`make_plan`, whose last answer is kept for those who count one thing after another of it."""
    return make_plan(config, source, destination, num_ranks)


def _is_among(ranks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of each of `ranks`; np.isin, which is a hundred times slower for so few."""
    marks = np.zeros(1 + max(ranks.max(initial=0), others.max(initial=0)), bool)
    marks[others] = True
    return marks[ranks]


# box, who has it, who wants it, receivers that lack it, receivers that have it
Overlap = tuple[Box, list[Holding], Holding, np.ndarray, np.ndarray]


def _overlaps(needed: dict[str, list[Holding]], held: dict[str, list[Holding]]) -> Iterator[Overlap]:
    for tensor, wanted in needed.items():
        by_box: dict[Box, list[Holding]] = defaultdict(list)
        for holding in held.get(tensor, []):
            by_box[holding.part.box].append(holding)
        for wants in wanted:
            covered = 0
            for box, has in by_box.items():
                common = intersect(wants.part.box, box)
                if not volume(common):
                    continue
                covered += volume(common)
                holders = np.concatenate([holding.ranks for holding in has])
                is_local = _is_among(wants.ranks, holders)
                yield common, has, wants, wants.ranks[~is_local], wants.ranks[is_local]
            if covered != volume(wants.part.box):
                raise UserError(
                    f"{tensor}: the source layout covers {covered} of the {volume(wants.part.box)} numbers that "
                    f"{wants.buffer.name} needs"
                )


def _cut(overlap: Overlap, limit: float) -> list[Overlap]:
    """Row ranges of an overlap, each of at most `limit` bytes (or one row), where more than one holder could send."""
    box, has, wants, remote, local = overlap
    rows, pieces = box[0][1] - box[0][0], min(1024, -(-volume(box) * FLOAT32_BYTES // int(limit)))
    if not len(remote) or pieces < 2 or sum(len(holding.ranks) for holding in has) < 2:
        return [overlap]
    borders = sorted({box[0][0] + rows * i // pieces for i in range(pieces + 1)})
    return [(((start, stop), *box[1:]), has, wants, remote, local) for start, stop in zip(borders, borders[1:])]


def lower_bound_bytes(config: ModelConfig, source: Strategy, destination: Strategy, num_ranks: int) -> np.ndarray:
    """What every rank needs and does not hold, int64 [num_ranks]; counted from the layouts, without a plan.

    Layers that lie on the same stages in both layouts are counted once and multiplied.
    """
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for stage, layers in enumerate(source.layers_of_stage(config.num_hidden_layers)):
        for layer in layers:
            to = next(
                i for i, others in enumerate(destination.layers_of_stage(config.num_hidden_layers)) if layer in others
            )
            alike[stage, to].append(layer)
    times = {layers[0]: len(layers) for layers in alike.values()}
    layer_of = {spec.name: spec.layer for spec in parameter_specs(config)}

    def boxes(strategy: Strategy, rank: int) -> dict[str, list[Box]]:
        found: dict[str, list[Box]] = defaultdict(list)
        if rank < strategy.dims.size:
            at = strategy.dims.coordinates(rank)
            at = at if strategy.splits_data else replace(at, data=0)  # data ranks hold the same
            if at not in cache[strategy]:
                for buffer in buffers_at(config, strategy, at):
                    for part in buffer.parts:
                        if layer_of[part.tensor] is None or layer_of[part.tensor] in times:
                            found[part.tensor].append(part.box)
                cache[strategy][at] = found
            return cache[strategy][at]
        return found

    cache: dict[Strategy, dict[Coordinates, dict[str, list[Box]]]] = {source: {}, destination: {}}
    bound = np.zeros(num_ranks, np.int64)
    for rank in range(num_ranks):
        has = boxes(source, rank)
        for tensor, needs in boxes(destination, rank).items():
            missing = sum(
                volume(box) - sum(volume(intersect(box, own)) for own in has.get(tensor, [])) for box in needs
            )
            bound[rank] += FLOAT32_BYTES * missing * times.get(layer_of[tensor], 1)  # type: ignore[arg-type]
    return bound
