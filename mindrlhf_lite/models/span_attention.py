"""The attention block by Ascend's flash attention of variable length: a token's heads lie side by side, so nothing is
transposed, and no keys are brought together for blocks of queries.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mindspore import Tensor

from mindrlhf_lite.models.attention import ATTENTIONS, GroupedQueryAttention
from mindrlhf_lite.models.flash_attention import flash_spans
from mindrlhf_lite.models.kernels import kernels_of
from mindrlhf_lite.models.native_attention import NATIVE_ATTENTIONS
from mindrlhf_lite.models.precision import Precision


class SpanAttention(GroupedQueryAttention):
    """`GroupedQueryAttention` over spans of keys."""

    def inputs_of(
        self,
        rotary: tuple[np.ndarray, np.ndarray],
        scale: np.float32,
        part: Callable[[int], slice],
        positions: np.ndarray,
        segments: np.ndarray,
        prompts: np.ndarray,
        keys: np.ndarray,
        used: np.ndarray,
    ) -> tuple:
        own = part(len(positions))
        cos, sin = (table[positions[own]].reshape(1, -1, 1, self.head_dim) for table in rotary)
        return cos, sin, cos * scale, sin * scale, *flash_spans(segments, prompts, own)

    def _biased(self, projected: Tensor, weights: tuple, bias: int | None, norm: int | None) -> Tensor:
        """By an addition, which Ascend starts faster than BiasAdd."""
        if bias is not None:
            projected = self.low(projected + self.low_weight(weights[bias]))
        return super()._biased(projected, weights, None, norm)

    def _by_token(self, projected: Tensor, weights: tuple, bias: int | None, norm: int | None, heads: int) -> Tensor:
        """[1, tokens, heads, D]"""
        return self._biased(projected, weights, bias, norm).reshape(1, -1, heads, self.head_dim)

    def _attended(
        self, q: Tensor, k: Tensor, v: Tensor, weights: tuple, inputs: tuple, results: tuple
    ) -> tuple[Tensor, tuple]:
        cos, sin, scaled_cos, scaled_sin = inputs[:4]
        query = self._by_token(q, weights, self.q_bias, self.q_norm, self.num_heads)
        key = self._by_token(k, weights, self.k_bias, self.k_norm, self.num_kv_heads)
        value = self._by_token(v, weights, self.v_bias, None, self.num_kv_heads)
        tokens, of_token = q.shape[0], (-1, self.num_kv_heads, self.head_dim)
        keys = self.gather_keys(self.rotate(key, cos, sin).reshape(tokens, -1)).reshape(of_token)
        values = self.gather_values(value.reshape(tokens, -1)).reshape(of_token)
        query = self.rotate(query, scaled_cos, scaled_sin).reshape(tokens, self.num_heads, self.head_dim)
        arguments = (query, keys, values, *inputs[4:])
        found = self.attention(*arguments) if len(results) == 0 else self.known_attention(*arguments, *results)
        return found[0].reshape(tokens, -1), found


_SPAN_ATTENTIONS = {"grouped_query": SpanAttention}  # by the names of shapes.layer_blocks.BLOCKS


def attentions_of(precision: Precision, head_dim: int) -> dict[str, type[GroupedQueryAttention]]:
    """The form that a model's attention blocks have, by the names of shapes.layer_blocks.BLOCKS."""
    if precision.has_native_kernels:
        return dict(NATIVE_ATTENTIONS)
    if kernels_of(precision, head_dim).attends_to_spans:
        return {**ATTENTIONS, **_SPAN_ATTENTIONS}
    return dict(ATTENTIONS)
