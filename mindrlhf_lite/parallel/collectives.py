"""Sum-reduction of gradients over an axis, in buckets, inside a jitted graph; the identity where the axis is None.

A small collective costs about 5 ms on CPU whatever its size, so gradients travel concatenated in buckets of at most
`BUCKET_BYTES`. The buckets' composition is fixed at build time: every rank issues the same collectives in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindspore import Tensor, nn, ops

from mindrlhf_lite.parallel.mesh import Axis

BUCKET_BYTES = 64 << 20

_concat = ops.Concat(0)


def plan_buckets(sizes: Sequence[int], bucket_bytes: int = BUCKET_BYTES) -> list[tuple[int, int]]:
    """Cuts float32 tensors of `sizes` elements, in order, into runs [start, end) of at most `bucket_bytes` (or one tensor)."""
    runs, start, filled = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and filled + 4 * size > bucket_bytes:
            runs.append((start, index))
            start, filled = index, 0
        filled += 4 * size
    runs.append((start, len(sizes)))
    return runs


class SumOverAxis(nn.Cell):
    """Sums a tuple of tensors over the ranks of `axis`.

    Args:
        axis: None makes this the identity.
        shapes: of the tensors, in order.
    """

    def __init__(self, axis: Axis | None, shapes: Sequence[tuple[int, ...]], bucket_bytes: int = BUCKET_BYTES):
        super().__init__(auto_prefix=False)
        self.is_identity = axis is None
        self.shapes = tuple(tuple(shape) for shape in shapes)
        sizes = []
        for shape in self.shapes:
            size = 1
            for extent in shape:
                size *= extent
            sizes.append(size)
        self.sizes = tuple(sizes)
        self.buckets = tuple(plan_buckets(sizes, bucket_bytes))
        self.all_reduce: Any = None if axis is None else ops.AllReduce(group=axis.group)

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
