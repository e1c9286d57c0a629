"""Ranks and their process groups, asked for by purpose: `mesh.data` is an Axis, or None where that axis has one rank.

Tensor and pipeline axes are refused until the roles can use them; `ParallelDims` already carries their degrees.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ParallelDims:
    """Parallel degrees of one role. Example: ParallelDims(data=2, tensor=1, pipeline=1)"""

    data: int
    tensor: int = 1
    pipeline: int = 1

    def problem(self, world_size: int) -> str | None:
        """What is wrong with these degrees on `world_size` ranks, or None."""
        if min(self.data, self.tensor, self.pipeline) < 1:
            return "every parallel degree must be at least 1"
        if self.tensor > 1 or self.pipeline > 1:
            return f"model_parallel={self.tensor}, pipeline_stage={self.pipeline}: this version runs data parallelism only; set both to 1"
        if self.data * self.tensor * self.pipeline != world_size:
            return (
                f"data_parallel {self.data} x model_parallel {self.tensor} x pipeline_stage {self.pipeline} = "
                f"{self.data * self.tensor * self.pipeline}, but {world_size} rank(s) are running (msrun --worker_num)"
            )
        return None


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

    @property
    def size(self) -> int:
        return len(self.ranks)


class Mesh:
    """All ranks of the program; creating it starts the process group if msrun launched us.

    Args:
        device_target: "CPU" or "Ascend".
        num_threads: threads that dispatch operators (the operators use all cores of the process); 0: one.
    """

    def __init__(self, device_target: str = "CPU", num_threads: int = 0):
        import mindspore as ms

        ms.set_device(device_target)
        # graph mode runs a graph on the calling thread: in PyNative mode that thread spins on a queue meanwhile, which took
        # a third of two cores from the operators. More dispatching threads than one do the same.
        ms.set_context(mode=ms.GRAPH_MODE, runtime_num_threads=num_threads or 1, max_call_depth=10_000)  # 24 layers exceed the default 1000
        self.world_size = launched_world_size()
        self.rank = 0
        self.data: Axis | None = None
        if "MS_ROLE" in os.environ:
            from mindspore import communication

            communication.init()
            self.rank = communication.get_rank()
            if self.world_size > 1:
                ranks = tuple(range(self.world_size))
                communication.create_group("data", list(ranks))
                self.data = Axis("data", ranks, self.rank)

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def gather_objects(axis: Axis | None, value: Any) -> list[Any]:
    """Every rank's value, in rank order, on all ranks; [value] without an axis. Values are pickled."""
    if axis is None:
        return [value]
    from mindspore import Tensor, mint

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


def barrier(axis: Axis | None) -> None:
    """Returns when every rank of the axis has called it."""
    gather_objects(axis, None)


def _int32() -> Any:
    import mindspore as ms

    return ms.int32
