"""Ranks and their process groups, asked for by purpose: `mesh.role(dims).tensor` is an Axis, or None where that axis
has one rank.

The one object that owns MindSpore's process-wide context and its communication groups. Several roles with different
degrees live on the same ranks; axes over the same ranks share a group.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mindrlhf_lite.job.ports import free_port
from mindrlhf_lite.parallel.arrivals import Arrivals, own_address
from mindrlhf_lite.parallel.dims import Coordinates, ParallelDims


def launched_world_size() -> int:
    """Ranks that msrun starts, 1 outside msrun; readable before any process group exists."""
    return int(os.environ.get("MS_WORKER_NUM", "1"))


def launched_rank() -> int:
    """This process's rank as msrun exports it, 0 outside msrun."""
    return int(os.environ.get("RANK_ID", "0"))


@dataclass(frozen=True)
class Axis:
    """One dimension of the mesh as this rank sees it."""

    group: str  # MindSpore's group name
    ranks: tuple[int, ...]
    index: int  # this rank's place in `ranks`
    arrivals: Arrivals | None = field(default=None, compare=False, repr=False)  # CPU only

    @property
    def size(self) -> int:
        return len(self.ranks)

    def meet(self) -> None:
        """Returns when all ranks of the axis have called it, so that a collective right after it waits for nobody."""
        if self.arrivals is not None:
            self.arrivals.announce(self.group)
            self.arrivals.wait_for(self.group, self.size)

    def meet_sender(self, source: int) -> None:
        """Before a message from `source`, a place in `ranks`: the others wait for it, and it for nobody."""
        if self.arrivals is not None:
            name = f"{self.group} from {source}"
            if self.index == source:
                self.arrivals.announce(name)
            else:
                self.arrivals.wait_for(name)


@dataclass(frozen=True)
class RoleMesh:
    """The axes of one role, as this rank sees them; an axis of one rank is None."""

    dims: ParallelDims
    at: Coordinates
    data: Axis | None = None  # same shard, other sequences
    tensor: Axis | None = None
    replica: Axis | None = None  # all ranks of one copy of the model: tensor x pipeline
    previous: Axis | None = None  # this rank and the one that feeds it activations
    next: Axis | None = None  # this rank and the one that it feeds
    ends: Axis | None = None  # first and last stage, which share a tied embedding; on those two only
    kv_replicas: Axis | None = None  # tensor ranks that hold the same key and value heads

    @property
    def is_first_stage(self) -> bool:
        return self.at.stage == 0

    @property
    def is_last_stage(self) -> bool:
        return self.at.stage == self.dims.pipeline - 1

    @property
    def reports(self) -> bool:
        """Whether this rank is the one of its copy of the model that reports what the loss computed."""
        return self.is_last_stage and self.at.tensor == 0


ALONE = RoleMesh(ParallelDims(1), Coordinates(0, 0, 0))


class Mesh:
    """All ranks of the program; creating it starts the process group if msrun launched us.

    Args:
        device_target: "CPU" or "Ascend".
        num_threads: threads that dispatch operators (the operators use all cores of the process); 0: one.
    """

    def __init__(self, device_target: str = "CPU", num_threads: int = 0):
        import mindspore as ms

        ms.set_device(device_target)
        # graph mode runs a graph on the calling thread: in PyNative mode that thread spins on a queue meanwhile, which
        # took a third of two cores from the operators. More dispatching threads than one do the same.
        # 24 layers exceed the default call depth, 1000
        ms.set_context(mode=ms.GRAPH_MODE, runtime_num_threads=num_threads or 1, max_call_depth=10_000)
        self.world_size = launched_world_size()
        self.rank = 0
        self._axes: dict[tuple[int, ...], Axis] = {}
        if "MS_ROLE" in os.environ:
            from mindspore import communication

            communication.init()
            self.rank = communication.get_rank()
        self._arrivals: Arrivals | None = None
        self.world = self._axis_of([range(self.world_size)])
        if self.world is not None and device_target == "CPU":
            address, port = gather_objects(self.world, (own_address(), free_port()))[0]
            self._arrivals = Arrivals(address, port, self.rank, self.world_size)
            self.world = self._axes[self.world.ranks] = replace(self.world, arrivals=self._arrivals)
        self.host = socket.gethostname()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def _axis_of(self, partition: Sequence[Sequence[int]]) -> Axis | None:
        """The axis of the set of ranks in `partition` that holds this rank. All ranks call it in the same order, so
        that groups are created in one order.
        """
        from mindspore import communication

        for ranks in map(tuple, partition):
            if self.rank in ranks and len(ranks) > 1:
                if ranks not in self._axes:
                    name = "ranks_" + "_".join(map(str, ranks)) if len(ranks) < self.world_size else "all_ranks"
                    communication.create_group(name, list(ranks))
                    self._axes[ranks] = Axis(name, ranks, ranks.index(self.rank), self._arrivals)
                return self._axes[ranks]
        return None

    def pairs(self) -> dict[tuple[int, int], Axis]:
        """An axis with every other rank, by (lower rank, higher rank). Rounds of disjoint pairs, so that groups are
        created side by side.
        """
        size = self.world_size + self.world_size % 2
        found = {}
        for turn in range(size - 1):
            ring = [(turn + i) % (size - 1) for i in range(size - 1)]
            pairs = [(size - 1, ring[0])] + [(ring[i], ring[size - 1 - i]) for i in range(1, size // 2)]
            axis = self._axis_of([sorted(pair) for pair in pairs if max(pair) < self.world_size])
            if axis is not None:
                found[axis.ranks[0], axis.ranks[1]] = axis
        return found

    def role(self, dims: ParallelDims, num_kv_heads: int = 1) -> RoleMesh:
        """The axes of a role of these degrees, which must multiply to the world size. `num_kv_heads`: fewer than tensor
        ranks are replicated.
        """
        assert dims.size == self.world_size, f"{dims.describe()} is {dims.size} ranks, not {self.world_size}"
        data, tensor, stages = range(dims.data), range(dims.tensor), range(dims.pipeline)

        def links(first: int) -> list[list[int]]:
            return [
                [dims.rank(d, t, s) for s in (i, i + 1)]
                for i in range(first, dims.pipeline - 1, 2)
                for d in data
                for t in tensor
            ]

        even, odd = self._axis_of(links(0)), self._axis_of(links(1))
        at = dims.coordinates(self.rank)
        copies = max(1, dims.tensor // num_kv_heads)
        return RoleMesh(
            dims,
            at,
            data=self._axis_of([[dims.rank(d, t, s) for d in data] for s in stages for t in tensor]),
            tensor=self._axis_of([[dims.rank(d, t, s) for t in tensor] for s in stages for d in data]),
            replica=self._axis_of([[dims.rank(d, t, s) for s in stages for t in tensor] for d in data]),
            previous=None if at.stage == 0 else odd if at.stage % 2 == 0 else even,
            next=None if at.stage == dims.pipeline - 1 else even if at.stage % 2 == 0 else odd,
            ends=self._axis_of([[dims.rank(d, t, s) for s in (0, dims.pipeline - 1)] for d in data for t in tensor])
            if dims.pipeline > 1
            else None,
            kv_replicas=self._axis_of(
                [
                    [dims.rank(d, t + i, s) for i in range(copies)]
                    for s in stages
                    for d in data
                    for t in range(0, dims.tensor, copies)
                ]
            ),
        )


def gather_objects(axis: Axis | None, value: Any) -> list[Any]:
    """Every rank's value, in rank order, on all ranks; [value] without an axis. Values are pickled."""
    if axis is None:
        return [value]
    from mindspore import Tensor, mint

    axis.meet()
    payload = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = [mint.zeros((1,), dtype=_int32()) for _ in axis.ranks]
    mint.distributed.all_gather(sizes, Tensor(np.array([len(payload)], np.int32)), group=axis.group)
    lengths = [int(size.asnumpy()[0]) for size in sizes]
    words = -(-max(lengths) // 4)
    padded = np.zeros(words * 4, np.uint8)
    padded[: len(payload)] = payload
    parts = [mint.zeros((words,), dtype=_int32()) for _ in axis.ranks]
    mint.distributed.all_gather(parts, Tensor(padded.view(np.int32)), group=axis.group)
    return [pickle.loads(part.asnumpy().tobytes()[:length]) for part, length in zip(parts, lengths, strict=True)]


def _int32() -> Any:
    import mindspore as ms

    return ms.int32
