"""Ranks and their process groups, asked for by purpose: `mesh.role(dims).tensor` is an Axis, or None where that axis
has one rank.

The one object that owns MindSpore's process-wide context and its communication groups. Several roles with different
degrees live on the same ranks; axes over the same ranks share a group.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.files.wire import BadMessage, from_bytes, to_bytes
from mindrlhf_lite.job.key import log_folder
from mindrlhf_lite.job.ports import free_port
from mindrlhf_lite.parallel.arrivals import Arrivals, own_address
from mindrlhf_lite.parallel.dims import Coordinates, ParallelDims
from mindrlhf_lite.parallel.key_agreement import agree_on_key
from mindrlhf_lite.parallel.process_context import set_process_context
from mindrlhf_lite.parallel.signing import ForgedMessage, Signer

_MOST_BYTES = 1 << 30  # of a message
PAIR_BUFFER_MB = 64  # of a pair's communicator on a device, which has two: a reshard makes many, used by turns


def is_simulated() -> bool:
    """Whether MindSpore only pretends (MS_SIMULATION_LEVEL): graphs are compiled, nothing is computed, and this process
    is alone, whatever its rank and the number of ranks (RANK_ID, RANK_SIZE).
    """
    return "MS_SIMULATION_LEVEL" in os.environ


def launched_world_size() -> int:
    """Ranks that msrun starts, 1 outside msrun; readable before any process group exists."""
    size = os.environ.get("MS_WORKER_NUM") or (os.environ.get("RANK_SIZE") if is_simulated() else None)
    return int(size or 1)


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
    signer: Signer | None = field(default=None, compare=False, repr=False)

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
    data: Axis | None = None  # same shard, other sequences, or other tokens of them
    context: Axis | None = None  # same shard, same sequences, other tokens of them
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
        """Whether this rank is the one of those with its sequences that reports what the loss computed."""
        return self.is_last_stage and self.at.tensor == 0 and self.context_index == 0

    @property
    def share(self) -> int:
        """Which of `dims.shares` of the sequences is this rank's."""
        return self.at.data // self.dims.context

    @property
    def context_index(self) -> int:
        """Which part of the tokens is this rank's."""
        return self.at.data % self.dims.context


ALONE = RoleMesh(ParallelDims(1), Coordinates(0, 0, 0))


class Mesh:
    """All ranks of the program; creating it starts the process group if msrun launched us.

    Args:
        device_target: "CPU" or "Ascend".
        num_threads: threads that dispatch operators (the operators use all cores of the process); 0: one on CPU,
            MindSpore's default elsewhere.
        is_deterministic: whether kernels and collectives of a device must give the same bits every time.
        shared_folder: which the ranks of all hosts see, for the job's key where the environment has none (`job.key`);
            None: where their logs go.
    """

    def __init__(
        self,
        device_target: str = "CPU",
        num_threads: int = 0,
        is_deterministic: bool = True,
        shared_folder: Path | None = None,
    ):
        set_process_context(device_target, num_threads, is_deterministic)
        self.world_size, self._device_target = launched_world_size(), device_target
        self.rank = 0
        self._axes: dict[tuple[int, ...], Axis] = {}
        if "MS_ROLE" in os.environ or (is_simulated() and self.world_size > 1):
            from mindspore import communication

            communication.init()
            self.rank = communication.get_rank()
        self._arrivals: Arrivals | None = None
        self._signer: Signer | None = None
        self.world = self._axis_of([range(self.world_size)])
        if self.world is not None and not is_simulated():
            gather = partial(_gather_words, self.world)
            self._signer = Signer(agree_on_key(gather, self.is_main, shared_folder or log_folder()), self.rank)
            self.world = self._axes[self.world.ranks] = replace(self.world, signer=self._signer)
        if self.world is not None and device_target == "CPU":
            address, port = gather_objects(self.world, (own_address(), free_port()))[0]
            self._arrivals = Arrivals(address, port, self.rank, self.world_size)
            self.world = self._axes[self.world.ranks] = replace(self.world, arrivals=self._arrivals)
        self.host = socket.gethostname()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def _axis_of(self, partition: Sequence[Sequence[int]], buffer_mb: int = 0) -> Axis | None:
        """The axis of the set of ranks in `partition` that holds this rank. All ranks call it in the same order, so
        that groups are created in one order.

        Args: buffer_mb: of a device's communicator, where it is made here; 0: as HCCL has it.
        """
        from mindspore import communication

        for ranks in map(tuple, partition):
            if self.rank in ranks and len(ranks) > 1:
                if ranks not in self._axes:
                    name = "ranks_" + "_".join(map(str, ranks)) if len(ranks) < self.world_size else "all_ranks"
                    options = _options(buffer_mb) if buffer_mb and self._device_target != "CPU" else None
                    communication.create_group(name, list(ranks), options)
                    self._axes[ranks] = Axis(name, ranks, ranks.index(self.rank), self._arrivals, self._signer)
                return self._axes[ranks]
        return None

    def pair(self, other: int) -> Axis:
        """The axis with one other rank, which calls this at the same point of the program. Made when it is first
        needed: a communicator takes hundreds of megabytes of an Ascend device.
        """
        ranks = (min(self.rank, other), max(self.rank, other))
        if self._arrivals is not None and ranks not in self._axes:
            name = f"the pair {ranks}"
            self._arrivals.announce(name)
            self._arrivals.wait_for(name, 2)
        axis = self._axis_of([ranks], PAIR_BUFFER_MB)
        assert axis is not None
        return axis

    def role(self, dims: ParallelDims, num_kv_heads: int = 1) -> RoleMesh:
        """The axes of a role of these degrees, which must multiply to the world size. `num_kv_heads`: fewer than tensor
        ranks are replicated.
        """
        assert dims.size == self.world_size, f"{dims.describe()} is {dims.size} ranks, not {self.world_size}"
        data, tensor, stages = range(dims.copies), range(dims.tensor), range(dims.pipeline)

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
            context=self._axis_of(
                [
                    [dims.rank(share * dims.context + i, t, s) for i in range(dims.context)]
                    for s in stages
                    for share in range(dims.shares)
                    for t in tensor
                ]
            ),
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


def _options(buffer_mb: int) -> Any:
    from mindspore._c_expression import GroupOptions

    options = GroupOptions()
    options.hccl_config = {"hccl_buffer_size": buffer_mb}
    return options


def gather_objects(axis: Axis | None, value: Any, kind: Any = Any) -> list[Any]:
    """Every rank's value, in rank order, on all ranks; [value] without an axis. Where ranks are simulated, all have
    this one's.

    Args: kind: what the value is, as `wire` reads it; a JSON value, unless it is said.

    Raises:
        ForgedMessage: what arrived is no message of this job.
    """
    if axis is None or is_simulated():
        return [value] * (1 if axis is None else axis.size)
    assert axis.signer is not None
    axis.meet()
    message = np.frombuffer(axis.signer.sign(axis.group, to_bytes(value, kind)), np.uint8)
    if len(message) > _MOST_BYTES:
        raise ValueError(f"a message of {len(message)} bytes to other ranks; {_MOST_BYTES} are the most")
    lengths = [int(length) for (length,) in _gather_words(axis, np.array([len(message)], np.int32))]
    if not all(0 < length <= _MOST_BYTES for length in lengths):
        raise ForgedMessage(f"messages of {lengths} bytes: another program wrote to the ports between ranks")
    padded = np.zeros(-(-max(lengths) // 4) * 4, np.uint8)
    padded[: len(message)] = message
    arrived = _gather_words(axis, padded.view(np.int32))
    return [
        _opened(axis, rank, words.tobytes()[:length], kind)
        for rank, words, length in zip(axis.ranks, arrived, lengths, strict=True)
    ]


def _opened(axis: Axis, sender: int, message: bytes, kind: Any) -> Any:
    assert axis.signer is not None
    try:
        return from_bytes(axis.signer.verified(axis.group, sender, message), kind)
    except BadMessage as error:
        raise ForgedMessage(f"rank {sender} runs another program than this one: {error}") from None


def _gather_words(axis: Axis, words: np.ndarray) -> list[np.ndarray]:
    """int32 words of every rank, as many of each."""
    import mindspore as ms
    from mindspore import Tensor, mint

    parts = [mint.zeros((len(words),), dtype=ms.int32) for _ in axis.ranks]
    mint.distributed.all_gather(parts, Tensor(words), group=axis.group)
    return [part.asnumpy() for part in parts]
