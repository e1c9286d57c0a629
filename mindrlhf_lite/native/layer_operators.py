"""The blocks of a layer over packed tokens by the library's functions, and their gradients, which are added to sums in
place (source/layer.cc). What a layer has not, and sums of what is not trained, are `ABSENT`.
"""

from __future__ import annotations

from mindspore import Tensor, nn

from mindrlhf_lite.native.operators import Shape, constant, floats, like_first, operator

ABSENT = constant(0)
PLAIN = (ABSENT, ABSENT)  # in the place of an adapter's A and B


class AttentionIn(nn.Cell):
    """Norm, products and rotary embedding of q, k, v.

    Args: has_norms: whether q and k have norms; of_adapters: what adapters are multiplied by.
    """

    def __init__(self, eps: float, scale: float, has_norms: bool, of_adapters: float = 0.0):
        super().__init__(auto_prefix=False)

        def shapes(x: Shape, norm: Shape, q: Shape, k: Shape, v: Shape, *others: Shape) -> tuple[Shape, ...]:
            found = tuple([x[0], weight[0]] for weight in (q, k, v))
            return found + found[:2] if has_norms else found

        self.numbers = constant(eps, scale, of_adapters)
        self.forward = operator("attention_in", shapes, *floats(5 if has_norms else 3))
        self.backward = operator("attention_in_gradient", like_first)

    def construct(
        self,
        x: Tensor,
        norm: Tensor,
        weights: tuple,
        biases: tuple,
        norms: tuple,
        tables: tuple,
        adapters: tuple = PLAIN * 3,
    ) -> tuple[Tensor, ...]:
        """Args: x [T, H]; weights, biases of q, k, v; norms of q, k; tables (cos, sin) [T, D]; adapters of q, k, v.

        Returns: q [T, heads * D], turned and scaled, k, turned, v; with norms, q and k before them.
        """
        return self.forward(x, norm, *weights, *biases, *norms, *tables, self.numbers, *adapters)

    def gradient(
        self,
        x: Tensor,
        norm: Tensor,
        weights: tuple,
        norms: tuple,
        tables: tuple,
        unnormed: tuple,
        gradients: tuple,
        of_stream: Tensor,
        sums: tuple,
        adapters: tuple = PLAIN * 3,
        sums_of_adapters: tuple = PLAIN * 3,
    ) -> Tensor:
        """Args: unnormed: q and k before their norms; gradients of q, k, v; of_stream: its gradient from elsewhere;
        sums: of the norm, weights, biases, norms. Returns the gradient of x.
        """
        arguments = (x, norm, *weights, *norms, *tables, self.numbers, *unnormed, *gradients, of_stream)
        return self.backward(*arguments, *sums, *adapters, *sums_of_adapters)


class AttentionOut(nn.Cell):
    """The residual stream x [T, H] after what was attended to [T, heads * D] went through the weight of o."""

    def __init__(self, of_adapters: float = 0.0) -> None:
        super().__init__(auto_prefix=False)
        self.scale = constant(of_adapters)
        self.forward = operator("attention_out", lambda attended, weight, x, *others: x)
        self.backward = operator("attention_out_gradient", lambda gradient, attended, *others: attended)

    def construct(self, attended: Tensor, weight: Tensor, x: Tensor, adapter: tuple = PLAIN) -> Tensor:
        return self.forward(attended, weight, x, *adapter, self.scale)

    def gradient(
        self,
        of_stream: Tensor,
        attended: Tensor,
        weight: Tensor,
        total: Tensor,
        adapter: tuple = PLAIN,
        totals: tuple = PLAIN,
    ) -> Tensor:
        """Args: total: the sum that the weight's gradient is added to; totals: the adapter's. Returns the gradient of
        `attended`.
        """
        return self.backward(of_stream, attended, weight, total, *adapter, self.scale, *totals)


class GatedMlp(nn.Cell):
    """The gated MLP block, in two parts."""

    def __init__(self, eps: float, of_adapters: float = 0.0):
        super().__init__(auto_prefix=False)
        self.numbers = constant(eps, of_adapters)
        self.forward = operator("mlp_in", lambda x, norm, gate, *others: ([x[0], gate[0]],) * 2, *floats(2))
        self.finish = operator("mlp_out", lambda gate, up, down, x, *others: x)
        self.backward = operator("mlp_gradient", like_first)

    def construct(
        self, x: Tensor, norm: Tensor, gate: Tensor, up: Tensor, adapters: tuple = PLAIN * 2
    ) -> tuple[Tensor, Tensor]:
        """Products of gate and up [T, I] with the normed stream x [T, H]."""
        return self.forward(x, norm, gate, up, self.numbers, *adapters)

    def out(self, gate: Tensor, up: Tensor, down: Tensor, x: Tensor, adapter: tuple = PLAIN) -> Tensor:
        """The stream after the block. Args: gate, up: products; down: the weight."""
        return self.finish(gate, up, down, x, *adapter, self.numbers)

    def gradient(
        self,
        x: Tensor,
        norm: Tensor,
        weights: tuple,
        products: tuple,
        of_stream: Tensor,
        sums: tuple,
        adapters: tuple = PLAIN * 3,
        sums_of_adapters: tuple = PLAIN * 3,
    ) -> Tensor:
        """Args: weights of gate, up, down; products of gate, up; of_stream: gradient of the stream after the block;
        sums: of the norm and the weights. Returns that of x.
        """
        arguments = (x, norm, *weights, self.numbers, *products, of_stream, *sums)
        return self.backward(*arguments, *adapters, *sums_of_adapters)
