"""A linear's matrix product with its low-rank adapter, where it has one."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Tensor, ops

from mindrlhf_lite.models.precision import full
from mindrlhf_lite.native.layer_operators import PLAIN
from mindrlhf_lite.shapes.adapters import DOWN, UP, adapter_name

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


def with_adapter(result: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """result + scale * (x A^T) B^T in float32, whatever the model computes in (as peft does); inside graphs."""
    return full(result) + _linear(_linear(full(x), down) * scale, up)
