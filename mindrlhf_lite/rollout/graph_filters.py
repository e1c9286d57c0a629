"""min_p, top-k and top-p inside a decoding graph, for devices from which the logits of a vocabulary take longer to the
host than the filters do on the device. Order and meaning are those of `host_draw.filtered_weights`, but that with top-k
and top-p both, of tokens as probable as the k-th only k stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, mint, nn, ops

from mindrlhf_lite.models.packed_attention import MASKED
from mindrlhf_lite.reshard.transports import is_on_host
from mindrlhf_lite.rollout.running_sums import found_in, running_sums
from mindrlhf_lite.types import SamplingParams

_largest = ops.ReduceMax(keep_dims=True)
_gather_d = ops.GatherD()


@dataclass(frozen=True)
class Filters:
    """0, 0 and 1 are none."""

    min_p: float
    top_k: int
    top_p: float

    @staticmethod
    def of(sampling: SamplingParams) -> Filters | None:
        """None: something asks for the host, where the tokens of each sequence are known."""
        if sampling.has_penalties or not sampling.has_filters:
            return None
        return Filters(sampling.min_p, sampling.top_k, sampling.top_p)


class _SortedDown(nn.Cell):
    """The largest [B, count] of x [B, V] with their places, from the largest down. Args: count: 0: all."""

    def __init__(self, count: int):
        super().__init__(auto_prefix=False)
        self.count, self.is_on_host = count, is_on_host()
        self.top, self.sort = ops.TopK(sorted=True), ops.Sort(1, True)

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        count = x.shape[1] if self.count == 0 else min(self.count, x.shape[1])
        if self.is_on_host:
            values, places = self.sort(x) if self.count == 0 else self.top(x, count)
        elif self.count == 0:  # these operators have no kernels on CPU
            values, places = mint.sort(x, dim=1, descending=True, stable=True)
        else:
            values, places = mint.topk(x, count, dim=1)
        return values, places.astype(ms.int32)


class FilteredLogits(nn.Cell):
    """logits float32 [B, V], tempered -> the same, MASKED where they are filtered out."""

    def __init__(self, filters: Filters):
        super().__init__(auto_prefix=False)
        self.min_p, self.top_k, self.top_p = filters.min_p, filters.top_k, filters.top_p
        self.sorted_down, self.masked = _SortedDown(filters.top_k), Tensor(MASKED, ms.float32)

    def construct(self, logits: Tensor) -> Tensor:
        largest = _largest(logits, 1)
        if self.min_p > 0.0:
            logits = ops.select(ops.exp(logits - largest) >= self.min_p, logits, ops.zeros_like(logits) + self.masked)
        if self.top_k == 0 and self.top_p == 1.0:
            return logits
        values, places = self.sorted_down(logits)
        if self.top_p == 1.0:
            is_kept = logits >= values[:, -1:]
        else:
            sums = running_sums(ops.exp(values - largest))
            last = ops.minimum(found_in(*sums, sums[2][:, -1:] * self.top_p)[0], values.shape[1] - 1)
            least, place = _gather_d(values, 1, last), _gather_d(places, 1, last)
            here = ops.arange(logits.shape[1]).astype(ms.int32).reshape(1, -1)
            # among equal ones the lower index comes first
            is_kept = ops.logical_or(logits > least, ops.logical_and(logits == least, here <= place))
        return ops.select(is_kept, logits, ops.zeros_like(logits) + self.masked)
