"""Adapters that arrive in a rollout's layout, and the weights with them merged in that it generates with."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Parameter, Tensor, jit, ops

from mindrlhf_lite.models.precision import Precision, full, to_storage
from mindrlhf_lite.models.zeros import zeros
from mindrlhf_lite.parallel.compiled import CompiledCell
from mindrlhf_lite.parallel.layout import Strategy, buffers_of_rank
from mindrlhf_lite.shapes.adapters import DOWN, UP, adapter_name
from mindrlhf_lite.shapes.model_config import ModelConfig

_matmul = ops.MatMul()


class _Merged(CompiledCell):
    def __init__(self, scale: float, precision: Precision):
        super().__init__()
        self.scale, self.to_storage = scale, to_storage(precision)

    @jit
    def construct(self, base: Tensor, down: Tensor, up: Tensor) -> Tensor:
        return self.to_storage(full(base) + self.scale * _matmul(up, down))


def landing_of(shape: ModelConfig, strategy: Strategy, rank: int) -> dict[str, Parameter]:
    """Adapters of this rank's share of a rollout, zero, by buffer name. Args: shape: with adapters."""
    buffers = buffers_of_rank(shape.moved, strategy, rank)
    return {b.name: Parameter(zeros(b.shape), name=f"landed.{b.name}", requires_grad=False) for b in buffers}


class MergedWeights:
    """Writes W + scale * B A into the rollout's weights; from the base each time, so that no rounding builds up.

    Args: weights: of the rollout's model, by name; base: what they are without adapters, of those that have any.
    """

    def __init__(
        self,
        shape: ModelConfig,
        weights: Mapping[str, Parameter],
        base: Mapping[str, Parameter],
        landing: Mapping[str, Parameter],
        precision: Precision,
    ):
        assert shape.adapters is not None
        self._weights, self._base, self._landing = weights, base, landing
        self._merged = _Merged(shape.adapters.scale, precision)

    def write(self) -> None:
        for name, base in self._base.items():
            down, up = (self._landing[adapter_name(name, part)] for part in (DOWN, UP))
            ops.assign(self._weights[name], self._merged(base, down, up))
