"""The library's functions as MindSpore operators, and cells of them that know their gradients. All arrays are float32;
what each operator takes and returns stands at its function in `source`.
"""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, jit, nn, ops

from mindrlhf_lite.native.library import library
from mindrlhf_lite.parallel.compiled import CompiledCell

Shape = list[int]


def operator(name: str, shapes: Callable, *types: ms.Type) -> ops.Custom:
    """Args: shapes: of the outputs, from those of the inputs; types: of the outputs, float32 where there are none."""
    kinds = types or (ms.float32,)

    def out_types(*inputs: ms.Type) -> ms.Type | tuple[ms.Type, ...]:
        return kinds if len(kinds) > 1 else kinds[0]

    return ops.Custom(f"{library().path}:{name}", out_shape=shapes, out_dtype=out_types, func_type="aot")


def floats(count: int) -> tuple[ms.Type, ...]:
    return (ms.float32,) * count


def constant(*numbers: float) -> Tensor:
    return Tensor(np.array(numbers, np.float32))


def like_first(first: Shape, *others: Shape) -> Shape:
    return first


class Norm(nn.Cell):
    """x / rms(x) * weight over rows of x [T, H]."""

    def __init__(self, eps: float):
        super().__init__(auto_prefix=False)
        self.eps = constant(eps)
        self.forward = operator("rms_norm", like_first)
        self.backward = operator("rms_norm_gradient", lambda x, weight, *others: (x, weight), *floats(2))

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.forward(x, weight, self.eps)

    def bprop(self, x: Tensor, weight: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gradients = self.backward(x, weight, self.eps, gradient)
        return gradients[0], gradients[1]


class Product(nn.Cell):
    """x [T, K] weight [N, K]^T."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.forward = operator("product", lambda x, weight: [x[0], weight[0]])
        self.of_input = operator("product_input_gradient", lambda gradient, weight: [gradient[0], weight[1]])
        self.of_weight = operator("product_weight_gradient", lambda gradient, x: [gradient[1], x[1]])

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.forward(x, weight)

    def bprop(self, x: Tensor, weight: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return self.of_input(gradient, weight), self.of_weight(gradient, x)


class Rotary(nn.Cell):
    """Rotary embedding of x [T, heads * D]; tables [T, D]."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.turn, self.ahead, self.back = operator("rotary", like_first), constant(1), constant(-1)

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return self.turn(x, cos, sin, self.ahead)

    def bprop(self, x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        return self.turn(gradient, cos, sin, self.back), ops.zeros_like(cos), ops.zeros_like(sin)


class Gate(nn.Cell):
    """silu(gate) * up of [T, I]."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.forward = operator("gated", like_first)
        self.backward = operator("gated_gradient", lambda gate, up, gradient: (gate, up), *floats(2))

    def construct(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.forward(gate, up)

    def bprop(self, gate: Tensor, up: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gradients = self.backward(gate, up, gradient)
        return gradients[0], gradients[1]


class PackedAttention(nn.Cell):
    """Attention of q [T, heads * D], already scaled, over k, v [N, kv_heads * D], to the keys in `spans` [T, 4].
    Returns (what is attended to [T, heads * D], logs of the sums [T, heads]). Differentiated as `KnownAttention`.
    """

    def __init__(self, head_dim: int):
        super().__init__(auto_prefix=False)
        self.head = Tensor(np.zeros(head_dim, np.float32))
        self.forward = operator(
            "packed_attention", lambda q, k, v, spans, head: (q, [q[0], q[1] // head[0]]), *floats(2)
        )

    def construct(self, q: Tensor, k: Tensor, v: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(q, k, v, spans, self.head)


class KnownAttention(nn.Cell):
    """`PackedAttention` whose results are known."""

    def __init__(self, head_dim: int):
        super().__init__(auto_prefix=False)
        self.head = Tensor(np.zeros(head_dim, np.float32))
        self.backward = operator("packed_attention_gradient", lambda q, k, v, *others: (q, k, v), *floats(3))

    def construct(
        self, q: Tensor, k: Tensor, v: Tensor, spans: Tensor, attended: Tensor, log_sums: Tensor
    ) -> tuple[Tensor, Tensor]:
        return attended, log_sums

    def gradient(
        self, q: Tensor, k: Tensor, v: Tensor, spans: Tensor, attended: Tensor, log_sums: Tensor, of_attended: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of q, k and v."""
        return self.backward(q, k, v, spans, self.head, attended, log_sums, of_attended)

    def bprop(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spans: Tensor,
        attended: Tensor,
        log_sums: Tensor,
        out: tuple,
        gradients: tuple,
    ) -> tuple[Tensor, ...]:
        return (
            *self.gradient(q, k, v, spans, attended, log_sums, gradients[0]),
            ops.zeros_like(spans),
            ops.zeros_like(attended),
            ops.zeros_like(log_sums),
        )


class TokenSums(nn.Cell):
    """What logprobs are made of, from hidden [N, H], weight [R, H] and labels [N], rows of this rank's part.

    Args: rows: of the weight that are no padding; is_trained: whether the weight takes gradients.
    """

    def __init__(self, inverse_temperature: float, rows: int, is_trained: bool = True):
        super().__init__(auto_prefix=False)
        self.numbers = constant(inverse_temperature, rows)
        self.forward = operator("token_sums", lambda hidden, *others: ([hidden[0]],) * 4, *floats(4))
        self.is_trained = is_trained
        self.backward = (
            operator("token_sums_gradient", lambda hidden, weight, *others: (hidden, weight), *floats(2))
            if is_trained
            else operator("token_sums_of_frozen_gradient", like_first)
        )

    def construct(self, hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the largest logit, the sum of e^(logit - largest), that weighted by (logit - largest), and the
        label's logit - largest, each [N].
        """
        return self.forward(hidden, weight, labels, self.numbers)

    def gradient(
        self,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        log_sum: Tensor,
        entropy: Tensor,
        dlogprobs: Tensor,
        dentropy: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns (dhidden [N, H], dweight [R, H], zeros where it is not trained)."""
        found = self.backward(hidden, weight, labels, self.numbers, log_sum, entropy, dlogprobs, dentropy)
        return (found[0], found[1]) if self.is_trained else (found, ops.zeros_like(weight))


class AddTo(nn.Cell):
    """Adds arrays to parameters, in place; inside a graph. Returns [1], for `ops.depend`."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.add = operator("add_to", lambda *inputs: [1])

    def construct(self, parameters: tuple, parts: tuple) -> Tensor:
        return self.add(*parameters, *parts)


class SumOfSquares(CompiledCell):
    """Of all numbers of some parameters, [1]."""

    def __init__(self, parameters: list[Parameter]):
        super().__init__()
        self.parameters = ParameterTuple(parameters)
        self.add_up = operator("sum_of_squares", lambda *inputs: [1])

    @jit
    def construct(self) -> Tensor:
        return self.add_up(*self.parameters)


class AdamW(CompiledCell):
    """Of many parameters at once, in place.

    Args: state: weight, first moment, second moment and gradient of every parameter, one after the other. The graph
        owns them: as arguments, hundreds of them cost more than the work.
    """

    def __init__(self, state: list[Parameter]):
        super().__init__()
        self.state = ParameterTuple(state)
        self.update = operator("adamw", lambda *inputs: [1])

    @jit
    def construct(self, numbers: Tensor) -> Tensor:
        """numbers: as of `adamw` in source/optimizer.cc."""
        return self.update(numbers, *self.state)
