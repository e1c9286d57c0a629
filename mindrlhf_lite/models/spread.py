"""Arithmetic between arrays of different shapes, in the form that is cheap on CPU."""

from __future__ import annotations

from mindspore import Tensor, ops

_tile = ops.Tile()


@ops.constexpr
def _repeats(shape: tuple[int, ...], own: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(wanted // size for wanted, size in zip(shape, own, strict=True))


def spread(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x repeated to `shape`, of the same rank. Inside a graph.

    MindSpore's CPU kernels broadcast by index tables, 16 bytes an output element, which every operator of a graph keeps
    for as long as the graph lives: most of the memory of a training step, where activations take 4 bytes an element.
    Repeating first needs no table, gives the same numbers, and is faster.
    """
    return _tile(x, _repeats(shape, x.shape))
