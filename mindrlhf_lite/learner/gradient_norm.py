"""What completes a rank's accumulated gradients: sums over the ranks that share a parameter, and the global norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, jit, mutable, ops

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.native import operators
from mindrlhf_lite.parallel.collectives import SumOverAxis
from mindrlhf_lite.parallel.compiled import CompiledCell
from mindrlhf_lite.parallel.layout import EMBEDDING, HEAD
from mindrlhf_lite.parallel.mesh import Axis
from mindrlhf_lite.shapes.adapters import DOWN, is_adapter
from mindrlhf_lite.shapes.parameters import parameter_specs


@dataclass(frozen=True)
class GradientSums:
    """What has to be summed besides the data axis, by index of the trained parameter, and which parameters this rank
    counts in the global norm.
    """

    over_kv_replicas: tuple[int, ...]  # key and value heads that several tensor ranks hold
    over_tensor: tuple[
        int, ...
    ]  # norm gains and halves of adapters of which every tensor rank has a part of the gradient
    over_ends: tuple[int, ...]  # a tied embedding: looked up on the first stage, head on the last
    counts: tuple[bool, ...]  # every number of the model counts on exactly one rank of a replica

    @classmethod
    def of(cls, model: Decoder) -> GradientSums:
        mesh, specs = model.mesh, {spec.name: spec for spec in parameter_specs(model.config)}
        names, is_tied = [buffer.name for buffer in model.trained_buffers], model.config.tie_word_embeddings
        copies = max(1, mesh.dims.tensor // model.config.num_key_value_heads)
        kv = tuple(
            i
            for i, name in enumerate(names)
            if mesh.kv_replicas and (".k_proj." in name or ".v_proj." in name) and f".{DOWN}." not in name
        )
        # every tensor rank has seen its own heads only, or columns, or its own tokens
        parts = tuple(
            i
            for i, name in enumerate(names)
            if mesh.tensor
            and (
                ".q_norm." in name
                or ".k_norm." in name
                or (model.is_sequence_split and "norm." in name)
                or (is_adapter(name) and specs[name].tensor_dim is None)
            )
        )
        ends = tuple(i for i, name in enumerate(names) if is_tied and mesh.ends and name in (EMBEDDING, HEAD))

        def counts(index: int, name: str) -> bool:
            if is_tied and name == HEAD:
                return False
            if specs[name].tensor_dim is None or (name == EMBEDDING and not model.strategy.splits_embedding):
                return mesh.at.tensor == 0
            return index not in kv or mesh.at.tensor % copies == 0

        return cls(kv, parts, ends, tuple(counts(i, name) for i, name in enumerate(names)))


class _SumSome(CompiledCell):
    """Sums some accumulators over an axis in place."""

    def __init__(self, gradients: list[Parameter], axis: Axis | None):
        super().__init__()
        self.gradients = ParameterTuple(gradients)
        self.sum_over_ranks = SumOverAxis(axis, [g.shape for g in gradients])

    @jit
    def construct(self) -> Tensor:
        for accumulator, gradient in zip(self.gradients, self.sum_over_ranks(tuple(self.gradients))):
            ops.assign(accumulator, gradient)
        return ops.zeros((1,), ms.float32)


class _SquaredNorm(CompiledCell):
    """Of gradients that are arguments: one graph for all layers."""

    @jit
    def construct(self, gradients: tuple) -> Tensor:
        total = ops.zeros((1,), ms.float32)
        for gradient in gradients:
            total = total + (gradient * gradient).reshape(-1).sum()
        return total


class _SumOfNumber(CompiledCell):
    def __init__(self, axis: Axis | None):
        super().__init__()
        self.sum_over_ranks = SumOverAxis(axis, [(1,)])

    @jit
    def construct(self, number: Tensor) -> Tensor:
        return self.sum_over_ranks((number,))[0]


def _by_layer(model: Decoder, gradients: Sequence[Parameter], counts: Sequence[bool]) -> list[list[Parameter]]:
    """The gradients that count, those of each layer together, as all layers have the same shapes."""
    groups: dict[str, list[Parameter]] = {}
    for weight, gradient, is_counted in zip(model.trained, gradients, counts, strict=True):
        if is_counted:
            layer = weight.name.split(".")[2] if weight.name.startswith("model.layers.") else weight.name
            groups.setdefault(layer, []).append(gradient)
    return list(groups.values())


def _squares_of(model: Decoder, gradients: Sequence[Parameter], counts: Sequence[bool]) -> Callable[[], list[Tensor]]:
    """What gives sums of squares that together are those of all gradients that count, [1] each."""
    if model.precision.has_native_kernels:
        of_all = operators.SumOfSquares([gradient for gradient, counted in zip(gradients, counts) if counted])
        return lambda: [of_all()]
    groups, of_group = _by_layer(model, gradients, counts), _SquaredNorm()
    return lambda: [of_group(mutable(tuple(group))) for group in groups]


class WholeGradients:
    """Args: gradients: accumulators of the model's trained parameters, in order."""

    def __init__(self, model: Decoder, gradients: Sequence[Parameter]):
        mesh, sums = model.mesh, GradientSums.of(model)
        axes = (
            (range(len(gradients)), mesh.data),
            (sums.over_kv_replicas, mesh.kv_replicas),
            (sums.over_tensor, mesh.tensor),
            (sums.over_ends, mesh.ends),
        )
        self._sums = [_SumSome([gradients[i] for i in chosen], axis) for chosen, axis in axes if chosen and axis]
        self._sum_over_replica = _SumOfNumber(mesh.replica)
        self._squares = _squares_of(model, gradients, sums.counts)

    def norm(self) -> float:
        """Sums the gradients over ranks, in place, and returns their global norm."""
        for sum_some in self._sums:
            sum_some()
        square = Tensor([sum(float(each.asnumpy()[0]) for each in self._squares())], ms.float32)
        return math.sqrt(self._sum_over_replica(square).asnumpy()[0])
