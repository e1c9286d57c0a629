"""AdamW over accumulated gradients: sum over data-parallel ranks, global-norm clipping, one fused kernel a parameter.

The fused kernel has no bias correction; it is folded into the step size, epsilon and decay (Adam, arXiv:1412.6980, end of
sec. 2; decoupled decay: arXiv:1711.05101), which gives PyTorch's AdamW up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, jit, nn, ops

from mindrlhf_lite.parallel.collectives import SumOverAxis
from mindrlhf_lite.parallel.mesh import Axis

_adam_weight_decay = ops.AdamWeightDecay(use_locking=True)


@dataclass(frozen=True)
class AdamWOptions:
    """Decay applies to matrices only: norm gains and biases are never decayed."""

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # 0 means no clipping


class _SumGradients(nn.Cell):
    """Sums the accumulators over the data axis in place and returns the global gradient norm."""

    def __init__(self, gradients: ParameterTuple, axis: Axis | None):
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.sum_over_ranks = SumOverAxis(axis, [g.shape for g in gradients])

    @jit
    def construct(self) -> Tensor:
        summed = self.sum_over_ranks(tuple(self.gradients))
        squares = 0.0
        for accumulator, gradient in zip(self.gradients, summed):
            if not self.sum_over_ranks.is_identity:
                ops.assign(accumulator, gradient)
            squares = squares + (gradient * gradient).reshape(-1).sum()
        return ops.sqrt(squares)


class _Apply(nn.Cell):
    """One AdamW update from the accumulators, which are then zeroed."""

    def __init__(self, weights: ParameterTuple, first: ParameterTuple, second: ParameterTuple, gradients: ParameterTuple, decays: tuple[bool, ...]):
        super().__init__(auto_prefix=False)
        self.weights, self.first, self.second, self.gradients, self.decays = weights, first, second, gradients, decays

    @jit
    def construct(self, lr: Tensor, beta1: Tensor, beta2: Tensor, eps: Tensor, decay: Tensor, no_decay: Tensor, scale: Tensor) -> Tensor:
        for weight, first, second, gradient, decays in zip(self.weights, self.first, self.second, self.gradients, self.decays):
            _adam_weight_decay(weight, first, second, lr, beta1, beta2, eps, decay if decays else no_decay, gradient * scale)
            ops.assign_sub(gradient, gradient)  # zeros it in place
        return lr


class AdamW:
    """Holds the gradient accumulators and both moments (float32, as large as the weights, each).

    Args:
        weights: trainable parameters.
        decays: for each of them, whether weight decay applies.
        axis: data-parallel ranks to sum over.
    """

    def __init__(self, weights: ParameterTuple, decays: list[bool], options: AdamWOptions, axis: Axis | None):
        def like(prefix: str) -> ParameterTuple:
            return ParameterTuple([Parameter(Tensor(np.zeros(w.shape, np.float32)), name=f"{prefix}.{w.name}", requires_grad=False) for w in weights])

        self.options = options
        self.gradients, self.first_moment, self.second_moment = like("gradient"), like("adam_m"), like("adam_v")
        self.updates_done = 0
        self._sum = _SumGradients(self.gradients, axis)
        self._apply = _Apply(weights, self.first_moment, self.second_moment, self.gradients, tuple(decays))

    def step(self, lr: float) -> float:
        """One update from the accumulated gradients. Returns the global gradient norm before clipping.

        Raises:
            FloatingPointError: the norm is not finite; weights and moments are left as they were.
        """
        o = self.options
        norm = float(self._sum().asnumpy())
        if not math.isfinite(norm):
            raise FloatingPointError(f"gradient norm is {norm}; the weights were left as they were before this update")
        clip = min(1.0, o.max_grad_norm / (norm + 1e-6)) if o.max_grad_norm else 1.0
        self.updates_done += 1
        root2 = math.sqrt(1 - o.beta2**self.updates_done)
        correction = root2 / (1 - o.beta1**self.updates_done)
        scalars = (lr * correction, o.beta1, o.beta2, o.eps * root2, o.weight_decay / correction, 0.0, clip)
        self._apply(*(Tensor(value, ms.float32) for value in scalars))
        return norm

    def state(self) -> dict[str, np.ndarray]:
        """Both moments by name, as copies."""
        return {p.name: p.asnumpy().copy() for p in (*self.first_moment, *self.second_moment)}

    def load_state(self, state: dict[str, np.ndarray], updates_done: int) -> None:
        """Restores what `state` returned."""
        for parameter in (*self.first_moment, *self.second_moment):
            ops.assign(parameter, Tensor(state[parameter.name]))
        self.updates_done = updates_done
