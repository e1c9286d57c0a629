"""Collectives as cells for jitted graphs, the identity where the axis is None; what CPU lacks is emulated here and
nowhere else.

MindSpore 2.9 on CPU reduces by sum only, and has neither reduce-scatter nor all-gather on a part of the ranks inside a
graph. An all-gather becomes a sum of arrays that are zero outside each rank's place (adding zeros is exact), a
reduce-scatter a sum followed by a cut. On Ascend the operators themselves would be used: those branches are not run
here.

Gradients: `EnterTensorParallel` and `LeaveTensorParallel` are the conjugate pair f, g of Megatron-LM (arXiv:1909.08053,
sec. 3), with `is_sequence_split` their variants over token shards (arXiv:2205.05198, sec. 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindrlhf_lite.parallel.mesh import Axis

GRADIENT_BUCKET_BYTES = 64 << 20

_concat = ops.Concat(0)


def plan_buckets(sizes: Sequence[int], bucket_bytes: int = GRADIENT_BUCKET_BYTES) -> list[tuple[int, int]]:
    """Cuts float32 tensors of `sizes` elements, in order, into runs [start, end) of at most `bucket_bytes` (or one
    tensor).
    """
    runs, start, filled = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and filled + 4 * size > bucket_bytes:
            runs.append((start, index))
            start, filled = index, 0
        filled += 4 * size
    runs.append((start, len(sizes)))
    return runs


def _is_cpu() -> bool:
    return ms.get_context("device_target") == "CPU"


def _sum_of(axis: Axis | None) -> Any:
    return None if axis is None else ops.AllReduce(group=axis.group)


class GatherRows(nn.Cell):
    """x [rows, ...] of every rank -> [ranks * rows, ...] in rank order, inside a graph. No gradient of its own.

    Args:
        axis: None makes this the identity.
    """

    def __init__(self, axis: Axis | None):
        super().__init__(auto_prefix=False)
        self.axis_size = 1 if axis is None else axis.size
        self.index = 0 if axis is None else axis.index
        self.sums = axis is not None and _is_cpu()
        self.all_reduce = _sum_of(axis)
        self.all_gather: Any = (
            None if axis is None or self.sums else ops.AllGather(group=axis.group)
        )  # Ascend: not run here

    def construct(self, x: Tensor) -> Tensor:
        if self.axis_size == 1:
            return x
        if not self.sums:
            return self.all_gather(x)
        parts: tuple = ()
        for index in range(self.axis_size):
            parts += (x if index == self.index else ops.zeros_like(x),)
        return self.all_reduce(_concat(parts))


class ReduceScatterRows(nn.Cell):
    """Sums x [ranks * rows, ...] over the ranks and keeps this rank's rows. No gradient of its own."""

    def __init__(self, axis: Axis):
        super().__init__(auto_prefix=False)
        self.axis_size, self.index = axis.size, axis.index
        self.sums = _is_cpu()
        self.all_reduce = _sum_of(axis)
        self.reduce_scatter: Any = None if self.sums else ops.ReduceScatter(group=axis.group)  # Ascend: not run here

    def construct(self, x: Tensor) -> Tensor:
        if not self.sums:
            return self.reduce_scatter(x)
        rows = x.shape[0] // self.axis_size
        return self.all_reduce(x)[self.index * rows : (self.index + 1) * rows]


class MaxOverAxis(nn.Cell):
    """Element-wise maximum of x [N] over the ranks; no gradient flows through it."""

    def __init__(self, axis: Axis):
        super().__init__(auto_prefix=False)
        self.gather = GatherRows(axis)

    def construct(self, x: Tensor) -> Tensor:
        return ops.ReduceMax()(self.gather(x.reshape(1, -1)), 0)


class _SumForward(nn.Cell):
    """Sum over the ranks; the gradient, which is the same on all of them, passes unchanged."""

    def __init__(self, axis: Axis):
        super().__init__(auto_prefix=False)
        self.all_reduce = _sum_of(axis)

    def construct(self, x: Tensor) -> Tensor:
        return self.all_reduce(x)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor]:
        return (gradient,)


class _SumBackward(nn.Cell):
    """The identity; the gradient, of which every rank has a part, is summed."""

    def __init__(self, axis: Axis):
        super().__init__(auto_prefix=False)
        self.all_reduce = _sum_of(axis)

    def construct(self, x: Tensor) -> Tensor:
        return x

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor]:
        return (self.all_reduce(gradient),)


class _GatherTokens(nn.Cell):
    """Token shards [N / ranks, H] -> all tokens [N, H]; the gradient is summed and cut into shards again."""

    def __init__(self, axis: Axis):
        super().__init__(auto_prefix=False)
        self.gather, self.scatter = GatherRows(axis), ReduceScatterRows(axis)

    def construct(self, x: Tensor) -> Tensor:
        return self.gather(x)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor]:
        return (self.scatter(gradient),)


class _ScatterTokens(nn.Cell):
    """Partial sums of all tokens [N, H] -> the sum of this rank's shard; the gradient is gathered."""

    def __init__(self, axis: Axis):
        super().__init__(auto_prefix=False)
        self.gather, self.scatter = GatherRows(axis), ReduceScatterRows(axis)

    def construct(self, x: Tensor) -> Tensor:
        return self.scatter(x)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor]:
        return (self.gather(gradient),)


class _CutTokens(nn.Cell):
    """Whole rows [N, H], equal on all ranks -> this rank's shard; the gradient is gathered."""

    def __init__(self, axis: Axis):
        super().__init__(auto_prefix=False)
        self.axis_size, self.index, self.gather = axis.size, axis.index, GatherRows(axis)

    def construct(self, x: Tensor) -> Tensor:
        rows = x.shape[0] // self.axis_size
        return x[self.index * rows : (self.index + 1) * rows]

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor]:
        return (self.gather(gradient),)


class _JoinTokens(nn.Cell):
    """Token shards [N / ranks, ...] -> all tokens [N, ...], with which every rank computes the same; the gradient, the
    same on all of them, is cut.
    """

    def __init__(self, axis: Axis):
        super().__init__(auto_prefix=False)
        self.index, self.gather = axis.index, GatherRows(axis)

    def construct(self, x: Tensor) -> Tensor:
        return self.gather(x)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor]:
        rows = x.shape[0]
        return (gradient[self.index * rows : (self.index + 1) * rows],)


def gather_tokens(axis: Axis | None) -> nn.Cell:
    """Rows of this rank's tokens -> those of all ranks, of which each rank uses what it needs."""
    return nn.Identity() if axis is None else _GatherTokens(axis)


def scatter_tokens(axis: Axis | None) -> nn.Cell:
    """Gradients of what `gather_tokens` gave: the sum over the ranks, of this rank's tokens."""
    return nn.Identity() if axis is None else ReduceScatterRows(axis)


def join_tokens(axis: Axis | None) -> nn.Cell:
    """Rows of this rank's tokens -> those of all ranks, with which all go on alike."""
    return nn.Identity() if axis is None else _JoinTokens(axis)


def enter_tensor_parallel(axis: Axis | None, is_sequence_split: bool) -> nn.Cell:
    """Before a column-split linear: residual-stream rows in, rows that every tensor rank multiplies with its columns
    out.
    """
    if axis is None:
        return nn.Identity()
    return _GatherTokens(axis) if is_sequence_split else _SumBackward(axis)


def leave_tensor_parallel(axis: Axis | None, is_sequence_split: bool) -> nn.Cell:
    """After a row-split linear: partial sums in, rows of the residual stream out."""
    if axis is None:
        return nn.Identity()
    return _ScatterTokens(axis) if is_sequence_split else _SumForward(axis)


def cut_tokens(axis: Axis | None, is_sequence_split: bool) -> nn.Cell:
    """Rows that all tensor ranks hold whole -> rows of the residual stream."""
    return nn.Identity() if axis is None or not is_sequence_split else _CutTokens(axis)


class SumOverAxis(nn.Cell):
    """Sums a tuple of tensors over the ranks of `axis`, in buckets.

    A collective has a cost whatever its size, so gradients travel concatenated in buckets of at most `bucket_bytes`.
    The buckets' composition is fixed at build time: every rank issues the same collectives in the same order.

    Args:
        axis: None makes this the identity.
        shapes: of the tensors, in order.
    """

    def __init__(self, axis: Axis | None, shapes: Sequence[tuple[int, ...]], bucket_bytes: int = GRADIENT_BUCKET_BYTES):
        super().__init__(auto_prefix=False)
        self.is_identity = axis is None or not shapes
        self.shapes = tuple(tuple(shape) for shape in shapes)
        sizes = []
        for shape in self.shapes:
            size = 1
            for extent in shape:
                size *= extent
            sizes.append(size)
        self.sizes = tuple(sizes)
        self.buckets = tuple(plan_buckets(sizes, bucket_bytes))
        self.all_reduce = _sum_of(axis)

    def construct(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.is_identity:
            return tensors
        reduced: tuple = ()
        for start, end in self.buckets:
            flat: tuple = ()
            for index in range(start, end):
                flat += (tensors[index].reshape(-1),)
            total = self.all_reduce(_concat(flat))
            offset = 0
            for index in range(start, end):
                reduced += (total[offset : offset + self.sizes[index]].reshape(self.shapes[index]),)
                offset += self.sizes[index]
        return reduced


def transfer(x: Tensor, axis: Axis, source: int) -> None:
    """Point to point between the two ranks of `axis`, in place, outside graphs: both call it, `source` (0 or 1) sends
    x, the other receives into x.

    CPU has no send and receive; a broadcast between two ranks is one.
    """
    from mindspore import mint

    axis.meet_sender(source)
    mint.distributed.broadcast(x, axis.ranks[source], group=axis.group)
