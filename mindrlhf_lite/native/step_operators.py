"""A decoding step by the library's functions: the blocks of a layer over the newest token of every slot, the head, and
the drawing of tokens.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindrlhf_lite.native.layer_operators import PLAIN
from mindrlhf_lite.native.operators import constant, floats, like_first, operator


class Columns(nn.Cell):
    """Rows [B, N] as columns [N, slots] of a decoding step (source/columns.h)."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.turn = operator("columns", lambda rows: [rows[1], -(-rows[0] // 16) * 16])

    def construct(self, rows: Tensor) -> Tensor:
        return self.turn(rows)


class AttentionStep(nn.Cell):
    """The attention block over the newest token of every slot, by grouped queries over caches.

    Args: adds_stream: whether what is returned is the stream after the block, or only what the block adds; of_adapters:
    what adapters are multiplied by.
    """

    def __init__(self, eps: float, scale: float, adds_stream: bool, of_adapters: float = 0.0):
        super().__init__(auto_prefix=False)
        self.numbers = constant(eps, scale, adds_stream, of_adapters)
        self.run = operator("attention_step", like_first)

    def construct(
        self,
        x: Tensor,
        norm: Tensor,
        weights: tuple,
        tables: tuple,
        positions: Tensor,
        keys: Parameter,
        values: Parameter,
        adapters: tuple = PLAIN * 4,
    ) -> Tensor:
        """Args: x: columns [H, slots]; weights: q, k, v, o, their biases (but o's), norms of q and k, or `ABSENT`;
        tables: (cos, sin) as columns [D, slots]; positions int32 [B]; keys, values: [B * kv_heads * S, D]; adapters of
        q, k, v, o.
        """
        return self.run(x, norm, *weights, *tables, positions, keys, values, self.numbers, *adapters)


class AttentionBehind(nn.Cell):
    """Attention of new tokens behind what their slots' caches hold. Args: length: of a cache, in tokens."""

    def __init__(self, length: int):
        super().__init__(auto_prefix=False)
        self.length = constant(length)
        self.run = operator("attention_behind", like_first)

    def construct(
        self, query: Tensor, key: Tensor, value: Tensor, slots: Tensor, positions: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Args: query [T, heads * D], turned and scaled; key, value [T, kv_heads * D]; slots, positions int32 [T], a
        position below 0 is padding; keys, values: caches [B * kv_heads * S, D], written to in place.
        """
        return self.run(query, key, value, slots, positions, keys, values, self.length)


class MlpStep(nn.Cell):
    """The gated MLP block over the newest token of every slot; args as of `AttentionStep`."""

    def __init__(self, eps: float, adds_stream: bool, of_adapters: float = 0.0):
        super().__init__(auto_prefix=False)
        self.numbers = constant(eps, adds_stream, of_adapters)
        self.run = operator("mlp_step", like_first)

    def construct(
        self, x: Tensor, norm: Tensor, gate: Tensor, up: Tensor, down: Tensor, adapters: tuple = PLAIN * 3
    ) -> Tensor:
        return self.run(x, norm, gate, up, down, self.numbers, *adapters)


class HeadStep(nn.Cell):
    """Logits [B, R] of columns x [H, slots]: the final norm and this rank's rows of the head."""

    def __init__(self, eps: float):
        super().__init__(auto_prefix=False)
        self.eps = constant(eps)
        self.run = operator("head_step", lambda x, norm, head, eps, of_slots: [of_slots[0], head[0]])

    def construct(self, x: Tensor, norm: Tensor, head: Tensor, of_slots: Tensor) -> Tensor:
        """of_slots: any [B]."""
        return self.run(x, norm, head, self.eps, of_slots)


class Draw(nn.Cell):
    """Draws a token a row of logits [B, V].

    Args: stop_bias: [V], added where a row forbids its stop tokens.
    """

    def __init__(self, stop_bias: np.ndarray, is_greedy: bool, reports_scaled_policy: bool):
        super().__init__(auto_prefix=False)
        self.bias = Tensor(stop_bias)
        self.kind = constant(is_greedy, reports_scaled_policy)
        self.draw = operator("draw", lambda logits, *others: ([logits[0]],) * 3, ms.int32, *floats(2))

    def construct(
        self, logits: Tensor, uniform: Tensor, forbid_stop: Tensor, inverse_temperature: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (token [B] int32, its logprob where it was drawn [B], its logprob under the policy [B])."""
        numbers = ops.concat((inverse_temperature, self.kind))
        return self.draw(logits, uniform, forbid_stop, self.bias, numbers)
