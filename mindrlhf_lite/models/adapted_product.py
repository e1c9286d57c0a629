"""A linear's matrix product with its low-rank adapter, where it has one."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Tensor, nn, ops

from mindrlhf_lite.models.precision import Precision, full, to_compute
from mindrlhf_lite.native.layer_operators import PLAIN
from mindrlhf_lite.shapes.adapters import DOWN, UP, Adapters, adapter_name

_linear = ops.MatMul(transpose_b=True)


def adapters_by_place(places: Mapping[str, int]) -> tuple[tuple[int, ...], ...]:
    """Of a layer's weights in order: the places of the adapter's A and B, or ()."""
    return tuple(
        (places[adapter_name(name, DOWN)], places[adapter_name(name, UP)]) if adapter_name(name, UP) in places else ()
        for name in sorted(places, key=places.__getitem__)
    )


def adapters_at(pairs: tuple, weights: tuple, places: tuple[int, ...]) -> tuple:
    """A and B of the linears at `places`, side by side, `ABSENT` where one has none; inside graphs."""
    found: tuple = ()
    for place in places:
        pair = pairs[place]
        found += (weights[pair[0]], weights[pair[1]]) if len(pair) > 0 else PLAIN
    return found


class AdaptedProduct(nn.Cell):
    """x W^T + scale * (x A^T) B^T, the adapter's part in float32 whatever the model computes in (as peft does).

    Args:
        product: x W^T.
        places: of the layer's weights, by their names below its prefix.
    """

    def __init__(self, product: nn.Cell, adapters: Adapters | None, places: Mapping[str, int], precision: Precision):
        super().__init__(auto_prefix=False)
        self.product, self.low = product, to_compute(precision)
        self.pairs, self.scale = adapters_by_place(places), adapters.scale if adapters else 0.0

    def construct(self, x: Tensor, weights: tuple, place: int) -> Tensor:
        """Args: x [tokens, in]; weights: of the layer; place: of the linear's own. Returns [tokens, out]."""
        result, pair = self.product(x, weights[place]), self.pairs[place]
        if len(pair) == 0:
            return result
        narrow = _linear(full(x), weights[pair[0]]) * self.scale
        return self.low(full(result) + _linear(narrow, weights[pair[1]]))
