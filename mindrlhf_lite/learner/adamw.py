"""AdamW over accumulated gradients: sums over ranks, global-norm clipping, one fused kernel a parameter.

The fused kernel has no bias correction; it is folded into the step size, epsilon and decay (Adam, arXiv:1412.6980, end
of sec. 2; decoupled decay: arXiv:1711.05101), which gives PyTorch's AdamW up to rounding.

Sharded (ZeRO stage 1, arXiv:1910.02054), a data-parallel rank keeps the moments of its rows only, updates a copy of
those rows, and gathers the others' rows. A parameter whose rows do not divide evenly is kept whole on every rank.

Where the model stores less than float32, the rows that a rank updates are float32 masters, and the model's parameters
are rounded from them.

The state may be cut into parts that are updated one after the other, so that one part at a time need be in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, jit, mutable, nn, ops

from mindrlhf_lite.learner.loss_scale import LossScale
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.precision import Precision, to_storage
from mindrlhf_lite.models.zeros import zeros
from mindrlhf_lite.parallel.collectives import GatherRows, SumOverAxis, plan_buckets
from mindrlhf_lite.parallel.layout import EMBEDDING, HEAD, buffers_at
from mindrlhf_lite.parallel.mesh import Axis, RoleMesh
from mindrlhf_lite.shapes.parameters import parameter_specs

AroundPart = Callable[[int], AbstractContextManager[None]]
_adam_weight_decay = ops.AdamWeightDecay(use_locking=True)


@dataclass(frozen=True)
class AdamWOptions:
    """Decay applies to matrices only: norm gains and biases are never decayed."""

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # 0 means no clipping


OPTIMIZERS = {"adamw": AdamWOptions}  # by actor_config.optimizer.type


@dataclass(frozen=True)
class GradientSums:
    """What has to be summed besides the data axis, by index of the parameter, and which parameters this rank counts in
    the global norm.
    """

    over_kv_replicas: tuple[int, ...]  # key and value heads that several tensor ranks hold
    over_tensor: tuple[int, ...]  # norm gains of which every tensor rank has a part of the gradient
    over_ends: tuple[int, ...]  # a tied embedding: looked up on the first stage, head on the last
    counts: tuple[bool, ...]  # every number of the model counts on exactly one rank of a replica

    @classmethod
    def of(cls, model: Decoder) -> GradientSums:
        mesh, specs = model.mesh, {spec.name: spec for spec in parameter_specs(model.config)}
        names, is_tied = [buffer.name for buffer in model.buffers], model.config.tie_word_embeddings
        copies = max(1, mesh.dims.tensor // model.config.num_key_value_heads)
        kv = tuple(i for i, name in enumerate(names) if mesh.kv_replicas and (".k_proj." in name or ".v_proj." in name))
        # every tensor rank has seen its own heads only, or its own tokens
        norms = tuple(
            i
            for i, name in enumerate(names)
            if mesh.tensor
            and (".q_norm." in name or ".k_norm." in name or (model.is_sequence_split and "norm." in name))
        )
        ends = tuple(i for i, name in enumerate(names) if is_tied and mesh.ends and name in (EMBEDDING, HEAD))

        def counts(index: int, name: str) -> bool:
            if is_tied and name == HEAD:
                return False
            if specs[name].tensor_dim is None or (name == EMBEDDING and not model.strategy.splits_embedding):
                return mesh.at.tensor == 0
            return index not in kv or mesh.at.tensor % copies == 0

        return cls(kv, norms, ends, tuple(counts(i, name) for i, name in enumerate(names)))


class _SumSome(nn.Cell):
    """Sums some accumulators over an axis in place."""

    def __init__(self, gradients: list[Parameter], axis: Axis | None):
        super().__init__(auto_prefix=False)
        self.gradients = ParameterTuple(gradients)
        self.sum_over_ranks = SumOverAxis(axis, [g.shape for g in gradients])

    @jit
    def construct(self) -> Tensor:
        for accumulator, gradient in zip(self.gradients, self.sum_over_ranks(tuple(self.gradients))):
            ops.assign(accumulator, gradient)
        return ops.zeros((1,), ms.float32)


class _SquaredNorm(nn.Cell):
    """Of gradients that are arguments: one graph for all layers."""

    @jit
    def construct(self, gradients: tuple) -> Tensor:
        total = ops.zeros((1,), ms.float32)
        for gradient in gradients:
            total = total + (gradient * gradient).reshape(-1).sum()
        return total


class _SumOfNumber(nn.Cell):
    def __init__(self, axis: Axis | None):
        super().__init__(auto_prefix=False)
        self.sum_over_ranks = SumOverAxis(axis, [(1,)])

    @jit
    def construct(self, number: Tensor) -> Tensor:
        return self.sum_over_ranks((number,))[0]


class _GatherShards(nn.Cell):
    """Assembles weights from the rows that each data-parallel rank has updated, in buckets of the weights' type."""

    def __init__(self, weights: list[Parameter], shards: list[Parameter], axis: Axis | None, precision: Precision):
        super().__init__(auto_prefix=False)
        self.weights, self.shards = ParameterTuple(weights), ParameterTuple(shards)
        self.sizes = tuple(int(np.prod(shard.shape)) for shard in shards)
        self.shapes = tuple(tuple(weight.shape) for weight in weights)
        self.buckets = tuple(plan_buckets(self.sizes))
        self.gather, self.to_storage = GatherRows(axis), to_storage(precision)

    @jit
    def construct(self) -> Tensor:
        for start, end in self.buckets:
            flat: tuple = ()
            for index in range(start, end):
                flat += (self.to_storage(self.shards[index]).reshape(1, -1),)
            gathered = self.gather(ops.concat(flat, 1))
            offset = 0
            for index in range(start, end):
                ops.assign(
                    self.weights[index], gathered[:, offset : offset + self.sizes[index]].reshape(self.shapes[index])
                )
                offset += self.sizes[index]
        return ops.zeros((1,), ms.float32)


class _GatherWhole(nn.Cell):
    """All rows of a parameter from the data-parallel ranks' shares; for checkpoints."""

    def __init__(self, axis: Axis | None):
        super().__init__(auto_prefix=False)
        self.gather = GatherRows(axis)

    @jit
    def construct(self, shard: Tensor) -> Tensor:
        return self.gather(shard)


class _Round(nn.Cell):
    """What a model stores of a master."""

    def __init__(self, precision: Precision):
        super().__init__(auto_prefix=False)
        self.to_storage = to_storage(precision)

    @jit
    def construct(self, master: Tensor) -> Tensor:
        return self.to_storage(master)


def decays_of(model: Decoder) -> tuple[bool, ...]:
    """For each of the model's parameters, whether weight decay applies."""
    decays = {spec.name: spec.decays for spec in parameter_specs(model.config)}
    return tuple(decays.get(buffer.name, True) for buffer in model.buffers)


def _by_layer(model: Decoder, gradients: Sequence[Parameter], counts: Sequence[bool]) -> list[list[Parameter]]:
    """The gradients that count, those of each layer together, as all layers have the same shapes."""
    groups: dict[str, list[Parameter]] = {}
    for weight, gradient, is_counted in zip(model.parameters_in_order, gradients, counts, strict=True):
        if is_counted:
            layer = weight.name.split(".")[2] if weight.name.startswith("model.layers.") else weight.name
            groups.setdefault(layer, []).append(gradient)
    return list(groups.values())


class AdamW:
    """Holds the gradient accumulators (as large as the weights), both moments and, where the weights are shared or
    stored as less, copies of them (as large, or a data rank's rows of that), float32.

    Args:
        model: this rank's share; its parameters are updated in place.
        is_sharded: whether the data-parallel ranks share the moments.
        loss_scale: what the loss was multiplied by; None: nothing.
        part_bytes: most that the state of a part takes (or one parameter); 0: one part.
    """

    def __init__(
        self,
        model: Decoder,
        options: AdamWOptions,
        is_sharded: bool = False,
        loss_scale: LossScale | None = None,
        part_bytes: int = 0,
    ):
        mesh: RoleMesh = model.mesh
        weights, degree, index = list(model.parameters_in_order), mesh.dims.data if is_sharded else 1, mesh.at.data
        self.options, self.updates_done, self.loss_scale = options, 0, loss_scale or LossScale()
        self.strategy = replace(
            model.strategy, splits_data=is_sharded and degree > 1
        )  # how the moments lie on the ranks
        self.buffers = buffers_at(model.config, self.strategy, mesh.at)
        self._is_cut = [degree > 1 and weight.shape[0] % degree == 0 for weight in weights]
        rows = tuple(
            (index * w.shape[0] // degree, (index + 1) * w.shape[0] // degree) if cut else (0, w.shape[0])
            for w, cut in zip(weights, self._is_cut)
        )
        self._rows = rows

        def zeroed(prefix: str, whole: bool = False) -> ParameterTuple:
            shapes = [
                weight.shape if whole else (stop - start, *weight.shape[1:])
                for weight, (start, stop) in zip(weights, rows)
            ]
            return ParameterTuple(
                [
                    Parameter(
                        zeros(shape, on_host=part_bytes > 0 and not whole),  # parts come to the device one by one
                        name=f"{prefix}.{w.name}",
                        requires_grad=False,
                    )
                    for w, shape in zip(weights, shapes)
                ]
            )

        self.weights = weights
        self.gradients, self.first_moment, self.second_moment = (
            zeroed("gradient", whole=True),
            zeroed("adam_m"),
            zeroed("adam_v"),
        )
        self._precision, self._round = model.precision, _Round(model.precision)
        self._has_masters = model.precision.param != "float32"
        # the rows that this rank updates: the weight itself, or a float32 copy where it is shared or stored as less
        self._updated = [
            Parameter(_float32(w.asnumpy()[start:stop]), name=f"shard.{w.name}", requires_grad=False)
            if cut or self._has_masters
            else w
            for w, (start, stop), cut in zip(weights, rows, self._is_cut)
        ]
        self._decays = decays_of(model)
        per_row = 3 if self._has_masters or degree > 1 else 2
        state = [per_row * moment.size for moment in self.first_moment]
        self.parts = [range(*run) for run in plan_buckets(state, part_bytes or 4 * sum(state))]
        self._gathers = []
        for part in self.parts:
            cut = [i for i in part if self._is_cut[i]]
            rows_of_part = [weights[i] for i in cut], [self._updated[i] for i in cut]
            self._gathers.append(_GatherShards(*rows_of_part, mesh.data, model.precision) if cut else None)
        self._gather_whole = _GatherWhole(mesh.data if any(self._is_cut) else None)
        sums = GradientSums.of(model)
        axes = (
            (range(len(weights)), mesh.data),
            (sums.over_kv_replicas, mesh.kv_replicas),
            (sums.over_tensor, mesh.tensor),
            (sums.over_ends, mesh.ends),
        )
        self._sums = [_SumSome([self.gradients[i] for i in chosen], axis) for chosen, axis in axes if chosen and axis]
        self._counted = _by_layer(model, self.gradients, sums.counts)
        self.observer: Callable[[], None] | None = None  # is called while `gradients` are whole
        self._squared_norm, self._sum_over_replica = _SquaredNorm(), _SumOfNumber(mesh.replica)

    def step(self, lr: float, around: AroundPart = lambda part: nullcontext()) -> float:
        """One update from the accumulated gradients. Returns the global gradient norm before clipping; infinity: the
        gradients overflowed, weights and moments are left as they were, and the loss scale is lower.

        Args: around: of a part's number, what is open while that part of the state is used.

        Raises:
            FloatingPointError: the norm is not finite, and no loss scale can be lowered; weights and moments are left
                as they were.
        """
        with around(0):
            norm = self._norm()
            if self.observer:
                self.observer()
            if not math.isfinite(norm) and self.loss_scale.is_dynamic:
                self.loss_scale.overflowed()
                for gradient in self.gradients:
                    ops.assign(gradient, ops.zeros_like(gradient))
                return math.inf
            if not math.isfinite(norm):
                raise FloatingPointError(
                    f"gradient norm is {norm}; the weights were left as they were before this update"
                )
            numbers = self._numbers(lr, norm)
            self._update(0, numbers)
        for part in range(1, len(self.parts)):
            with around(part):
                self._update(part, numbers)
        return norm

    def _norm(self) -> float:
        for sum_some in self._sums:
            sum_some()
        squares = [self._squared_norm(mutable(tuple(group))) for group in self._counted]
        square = Tensor([sum(float(each.asnumpy()[0]) for each in squares)], ms.float32)
        return math.sqrt(self._sum_over_replica(square).asnumpy()[0]) / self.loss_scale.value

    def _numbers(self, lr: float, norm: float) -> tuple[Tensor, ...]:
        """What the fused kernel takes in the update that begins: rate, both betas, epsilon, decay of matrices and of
        the others, what gradients are multiplied by.
        """
        o = self.options
        clip = min(1.0, o.max_grad_norm / (norm + 1e-6)) if o.max_grad_norm else 1.0
        self.updates_done += 1
        root2 = math.sqrt(1 - o.beta2**self.updates_done)
        correction = root2 / (1 - o.beta1**self.updates_done)
        clip /= self.loss_scale.value
        self.loss_scale.went_well()
        numbers = (lr * correction, o.beta1, o.beta2, o.eps * root2, o.weight_decay / correction, 0.0, clip)
        return tuple(Tensor(number, ms.float32) for number in numbers)

    def _update(self, part: int, numbers: tuple[Tensor, ...]) -> None:
        rate, beta1, beta2, eps, decay, no_decay, scale = numbers
        for index in self.parts[part]:
            weight, gradient, (start, stop) = self._updated[index], self.gradients[index], self._rows[index]
            own = gradient if stop - start == gradient.shape[0] else gradient[start:stop]
            chosen = decay if self._decays[index] else no_decay
            first, second = self.first_moment[index], self.second_moment[index]
            _adam_weight_decay(weight, first, second, rate, beta1, beta2, eps, chosen, own * scale)
            ops.assign_sub(gradient, gradient)  # zeros it in place
            if self._has_masters and not self._is_cut[index]:
                ops.assign(self.weights[index], self._round(weight))
        if (gather := self._gathers[part]) is not None:
            gather()

    @property
    def parameters(self) -> list[Parameter]:
        """All that the optimizer allocates except the gradients: moments, and float32 copies of weight rows where they
        are shared, or stored as less.
        """
        return [parameter for part in range(len(self.parts)) for parameter in self.parameters_of(part)]

    def parameters_of(self, part: int) -> list[Parameter]:
        """Of one part."""
        chosen = self.parts[part]
        copies = [self._updated[i] for i in chosen if self._updated[i] is not self.weights[i]]
        return [*(self.first_moment[i] for i in chosen), *(self.second_moment[i] for i in chosen), *copies]

    def state(self, part: int = 0) -> dict[str, np.ndarray]:
        """Both moments of a part by name, as they are until the next update."""
        moments = [(self.first_moment[i], self.second_moment[i]) for i in self.parts[part]]
        return {p.name: p.asnumpy() for pair in moments for p in pair}

    def load_state(self, state: Mapping[str, np.ndarray], part: int = 0) -> None:
        """Restores what `state` returned."""
        for index in self.parts[part]:
            for parameter in (self.first_moment[index], self.second_moment[index]):
                ops.assign(parameter, Tensor(state[parameter.name]))

    def master_weights(self, part: int = 0) -> dict[str, np.ndarray]:
        """This rank's buffers of a part, whole and float32, by name; the data-parallel ranks call it together."""
        found = {}
        for i in self.parts[part]:
            weight, own = self.weights[i], self._updated[i]
            found[weight.name] = (self._gather_whole(own).reshape(weight.shape) if self._is_cut[i] else own).asnumpy()
        return found

    def load_weights(self, weights: Mapping[str, np.ndarray], part: int = 0) -> None:
        """Sets the model's parameters of a part. Args: weights: this rank's buffers, whole and float32, by name."""
        for i in self.parts[part]:
            weight, own, (start, stop) = self.weights[i], self._updated[i], self._rows[i]
            if own is not weight:
                ops.assign(own, Tensor(weights[weight.name][start:stop].copy()))
            ops.assign(weight, self._precision.stored(weights[weight.name]))


def _float32(rows: np.ndarray) -> Tensor:
    return Tensor(np.array(rows, np.float32))
