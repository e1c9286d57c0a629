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
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, ops

from mindrlhf_lite.learner.gradient_norm import WholeGradients
from mindrlhf_lite.learner.loss_scale import LossScale
from mindrlhf_lite.learner.shards import GatherShards, GatherWhole, Round
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.zeros import zeros
from mindrlhf_lite.native import operators
from mindrlhf_lite.parallel.collectives import plan_buckets
from mindrlhf_lite.parallel.layout import buffers_at
from mindrlhf_lite.parallel.mesh import Axis
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


def decays_of(model: Decoder) -> tuple[bool, ...]:
    """For each of the model's trained parameters, whether weight decay applies."""
    decays = {spec.name: spec.decays for spec in parameter_specs(model.config)}
    return tuple(decays.get(buffer.name, True) for buffer in model.trained_buffers)


class AdamW:
    """Holds the gradient accumulators (as large as the weights), both moments and, where the weights are shared or
    stored as less, copies of them (as large, or a data rank's rows of that), float32.

    Args:
        model: this rank's share; those of its parameters that take gradients are updated in place.
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
        mesh = model.mesh
        self.options, self.updates_done, self.loss_scale = options, 0, loss_scale or LossScale()
        self.weights, degree = list(model.trained), mesh.dims.copies if is_sharded else 1
        self._data_rank = mesh.at.data
        self.strategy = replace(
            model.strategy, splits_data=is_sharded and degree > 1
        )  # how the moments lie on the ranks
        trained = {weight.name for weight in self.weights}
        self.buffers = [each for each in buffers_at(model.config, self.strategy, mesh.at) if each.name in trained]
        self._is_cut = [degree > 1 and weight.shape[0] % degree == 0 for weight in self.weights]
        self._rows = tuple(
            (mesh.at.data * w.shape[0] // degree, (mesh.at.data + 1) * w.shape[0] // degree) if cut else (0, w.shape[0])
            for w, cut in zip(self.weights, self._is_cut)
        )
        self._precision, self._round = model.trained_precision, Round(model.trained_precision)
        self._has_masters, self._decays = self._precision.param != "float32", decays_of(model)
        self._allocate(on_host=part_bytes > 0)
        per_row = 3 if self._has_masters or degree > 1 else 2
        state = [per_row * moment.size for moment in self.first_moment]
        self.parts = [range(*run) for run in plan_buckets(state, part_bytes or 4 * sum(state))]
        self._gathers = [self._gather_of(part, mesh.data) for part in self.parts]
        self._gather_whole = GatherWhole(mesh.data if any(self._is_cut) else None)
        self._whole_gradients = WholeGradients(model, self.gradients)
        self._native = [self._native_update(part) for part in self.parts] if model.precision.has_native_kernels else []
        self.observer: Callable[[], None] | None = None  # is called while `gradients` are whole

    def _allocate(self, on_host: bool) -> None:
        """Gradients, moments, and the rows that this rank updates.

        Args: on_host: of the moments, which then come to the device part by part.
        """

        def zeroed(prefix: str, whole: bool = False) -> ParameterTuple:
            parameters = []
            for weight, (start, stop) in zip(self.weights, self._rows):
                shape = weight.shape if whole else (stop - start, *weight.shape[1:])
                values = zeros(shape, on_host=on_host and not whole)
                parameters.append(Parameter(values, name=f"{prefix}.{weight.name}", requires_grad=False))
            return ParameterTuple(parameters)

        self.gradients = zeroed("gradient", whole=True)
        self.first_moment, self.second_moment = zeroed("adam_m"), zeroed("adam_v")
        # the weight itself, or a float32 copy where it is shared or stored as less
        self._updated = [
            Parameter(_float32(w.asnumpy()[start:stop]), name=f"shard.{w.name}", requires_grad=False)
            if cut or self._has_masters
            else w
            for w, (start, stop), cut in zip(self.weights, self._rows, self._is_cut)
        ]

    def _gather_of(self, part: range, axis: Axis | None) -> GatherShards | None:
        cut = [i for i in part if self._is_cut[i]]
        if not cut:
            return None
        return GatherShards([self.weights[i] for i in cut], [self._updated[i] for i in cut], axis, self._precision)

    @property
    def accumulators(self) -> dict[str, Parameter]:
        """`gradients` by the names of their weights."""
        return {weight.name: gradient for weight, gradient in zip(self.weights, self.gradients)}

    def step(self, lr: float, around: AroundPart = lambda part: nullcontext()) -> float:
        """One update from the accumulated gradients. Returns the global gradient norm before clipping; infinity: the
        gradients overflowed, weights and moments are left as they were, and the loss scale is lower.

        Args: around: of a part's number, what is open while that part of the state is used.

        Raises:
            FloatingPointError: the norm is not finite, and no loss scale can be lowered; weights and moments are left
                as they were.
        """
        with around(0):
            norm = self._whole_gradients.norm() / self.loss_scale.value
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

    def _native_update(self, part: range) -> operators.AdamW:
        of_each = (self._updated, self.first_moment, self.second_moment, self.gradients)
        return operators.AdamW([state[i] for i in part for state in of_each])

    def _numbers(self, lr: float, norm: float) -> tuple[float, ...]:
        """What the kernels take in the update that begins: rate, both betas, epsilon, decay of matrices, what
        gradients are multiplied by.
        """
        o = self.options
        clip = min(1.0, o.max_grad_norm / (norm + 1e-6)) if o.max_grad_norm else 1.0
        self.updates_done += 1
        root2 = math.sqrt(1 - o.beta2**self.updates_done)
        correction = root2 / (1 - o.beta1**self.updates_done)
        clip /= self.loss_scale.value
        self.loss_scale.went_well()
        return lr * correction, o.beta1, o.beta2, o.eps * root2, o.weight_decay / correction, clip

    def _update(self, part: int, numbers: tuple[float, ...]) -> None:
        if self._native:
            decays = (self._decays[i] for i in self.parts[part])
            self._native[part](Tensor(np.array([*numbers, self._data_rank, *decays], np.float32)))
        else:
            self._update_each(part, numbers)
        if (gather := self._gathers[part]) is not None:
            gather()

    def _update_each(self, part: int, numbers: tuple[float, ...]) -> None:
        rate, beta1, beta2, eps, decay, scale = (Tensor(number, ms.float32) for number in numbers)
        no_decay = Tensor(0.0, ms.float32)
        for index in self.parts[part]:
            weight, gradient, (start, stop) = self._updated[index], self.gradients[index], self._rows[index]
            own = gradient if stop - start == gradient.shape[0] else gradient[start:stop]
            chosen = decay if self._decays[index] else no_decay
            first, second = self.first_moment[index], self.second_moment[index]
            _adam_weight_decay(weight, first, second, rate, beta1, beta2, eps, chosen, own * scale)
            ops.assign_sub(gradient, gradient)  # zeros it in place
            if self._has_masters and not self._is_cut[index]:
                ops.assign(self.weights[index], self._round(weight))

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
