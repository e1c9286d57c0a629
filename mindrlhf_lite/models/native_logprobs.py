"""Logprobs and entropy of chosen tokens by the CPU's own operators: logits of a chunk of tokens live within an operator
only, and its gradient computes them again.
"""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, nn, ops

from mindrlhf_lite.native import operators
from mindrlhf_lite.parallel.collectives import MaxOverAxis, _sum_of
from mindrlhf_lite.parallel.mesh import Axis


class NativeTokenLogprobs(nn.Cell):
    """`models.logprobs.TokenLogprobs`, with its arguments, in float32."""

    def __init__(
        self,
        vocab_size: int,
        axis: Axis | None = None,
        has_entropy_gradient: bool = False,
        is_trained: bool = True,
        temperature: float = 1.0,
    ):
        super().__init__(auto_prefix=False)
        ranks, index = (1, 0) if axis is None else (axis.size, axis.index)
        rows = -(-vocab_size // ranks)
        self.first, self.is_split, self.has_entropy_gradient = index * rows, axis is not None, has_entropy_gradient
        self.rows = max(0, min(rows, vocab_size - self.first))  # that are no padding
        self.sums = operators.TokenSums(1.0 / temperature, self.rows, is_trained)
        self.max_over_ranks: Any = None if axis is None else MaxOverAxis(axis)
        self.sum_over_ranks = _sum_of(axis)

    def construct(self, hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Args: hidden [N, H]; weight [rows, H]; labels [N] int32. Returns (logprobs [N], entropy [N], log Z [N] for
        the backward pass).
        """
        local = labels - self.first
        largest, total, weighted, chosen = self.sums(hidden, weight, local)
        if self.is_split:
            highest = self.max_over_ranks(largest)
            below = largest - highest
            share = ops.exp(below)
            is_here = ops.logical_and(local >= 0, local < self.rows).astype(chosen.dtype)
            own = ops.stack((total * share, (weighted + total * below) * share, chosen + below * is_here), 1)
            summed = self.sum_over_ranks(own)
            total, weighted, chosen = summed[:, 0], summed[:, 1], summed[:, 2]
            largest = highest
        log_total = ops.log(total)
        return chosen - log_total, log_total - weighted / total, largest + log_total

    def bprop(
        self, hidden: Tensor, weight: Tensor, labels: Tensor, out: tuple, gradients: tuple
    ) -> tuple[Tensor, Tensor, Tensor]:
        dentropy = gradients[1] if self.has_entropy_gradient else ops.zeros_like(out[1])
        found = self.sums.gradient(hidden, weight, labels - self.first, out[2], out[1], gradients[0], dentropy)
        return found[0], found[1], ops.zeros_like(labels)
