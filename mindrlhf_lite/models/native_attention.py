"""The attention block by the CPU's own operators: a token's heads lie side by side, [tokens, heads * D], so nothing is
transposed, and keys, masks and probabilities are not brought together for blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from mindspore import Parameter, Tensor

from mindrlhf_lite.models.adapted_product import adapters_at
from mindrlhf_lite.models.attention import GroupedQueryAttention
from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.native import operators, step_operators
from mindrlhf_lite.native.layer_operators import ABSENT
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.shapes.model_config import ModelConfig


def spans_of(segments: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """What each token of a stream may see: int32 [T, 4], first and end of its prompt, first and end of its own segment
    up to itself; both empty for padding, the first one for prompts.

    Args: segments, prompts int32 [T]: of a token, its segment and its prompt's; below 0: padding. A segment's tokens
    are neighbours.
    """
    count = len(segments)
    places = np.arange(count)
    begins = np.concatenate([[True], segments[1:] != segments[:-1]])
    first = np.maximum.accumulate(np.where(begins, places, 0))
    number = max(0, int(segments.max())) + 1
    starts, ends = np.zeros(number, np.int64), np.zeros(number, np.int64)
    is_token = segments >= 0
    starts[segments[begins & is_token]] = places[begins & is_token]
    np.maximum.at(ends, segments[is_token], places[is_token] + 1)
    has_prompt = is_token & (prompts != segments) & (prompts >= 0)
    prompt = np.where(has_prompt, prompts, 0)
    spans = np.zeros((count, 4), np.int32)
    spans[:, 0], spans[:, 1] = np.where(has_prompt, starts[prompt], 0), np.where(has_prompt, ends[prompt], 0)
    spans[:, 2], spans[:, 3] = np.where(is_token, first, 0), np.where(is_token, places + 1, 0)
    return spans


def causal_spans(rows: int, length: int) -> np.ndarray:
    """`spans_of` rows of one sequence each: int32 [rows * length, 4]."""
    segments = np.repeat(np.arange(rows, dtype=np.int32), length)
    return spans_of(segments, segments)


class NativeAttention(GroupedQueryAttention):
    """`GroupedQueryAttention` by the CPU's operators."""

    def __init__(
        self,
        config: ModelConfig,
        places: Mapping[str, int],
        mesh: RoleMesh,
        is_sequence_split: bool,
        precision: Precision,
        is_trained: bool,
    ):
        super().__init__(config, places, mesh, is_sequence_split, precision, is_trained)
        self.turn = operators.Rotary()
        self.attend, self.attend_known = (
            operators.PackedAttention(self.head_dim),
            operators.KnownAttention(self.head_dim),
        )
        self.is_split = mesh.tensor is not None  # the stream is added after the ranks' sum
        self.decode = step_operators.AttentionStep(
            config.rms_norm_eps, self.head_dim**-0.5, not self.is_split, self.scale_of_adapters
        )

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
        cos, sin = (table[positions[own]] for table in rotary)
        return cos, sin, cos * scale, sin * scale, spans_of(segments, prompts)[own]

    def _by_token(self, projected: Tensor, weights: tuple, bias: int | None, norm: int | None, heads: int) -> Tensor:
        """[tokens, heads * D]"""
        tokens = projected.shape[0]
        return self._biased(projected, weights, bias, norm).reshape(tokens, heads * self.head_dim)

    def _turned_by_token(
        self, q: Tensor, k: Tensor, v: Tensor, weights: tuple, tables: tuple
    ) -> tuple[Tensor, Tensor, Tensor]:
        cos, sin, scaled_cos, scaled_sin = tables
        query = self._by_token(q, weights, self.q_bias, self.q_norm, self.num_heads)
        key = self._by_token(k, weights, self.k_bias, self.k_norm, self.num_kv_heads)
        value = self._by_token(v, weights, self.v_bias, None, self.num_kv_heads)
        return self.turn(query, scaled_cos, scaled_sin), self.turn(key, cos, sin), value

    def project_by_token(self, x: Tensor, weights: tuple, tables: tuple) -> tuple[Tensor, Tensor, Tensor]:
        """Args: x [tokens, H]; tables (cos, sin, cos * scale, sin * scale) of the tokens, each [tokens, D].

        Returns: query [tokens, heads * D] scaled by head_dim ** -0.5, key and value [tokens, kv_heads * D].
        """
        q, k, v = self._products(x, weights)
        return self._turned_by_token(q, k, v, weights, tables)

    def step(
        self, x: Tensor, weights: tuple, tables: tuple, positions: Tensor, keys: Parameter, values: Parameter
    ) -> Tensor:
        """The newest token of every slot. Args: x: the residual stream as columns [H, slots]; tables (cos, sin) as
        columns [D, slots]; positions int32 [B]; keys, values: caches, written to in place. Returns the stream.
        """
        places = (self.q, self.k, self.v, self.o, self.q_bias, self.k_bias, self.v_bias, self.q_norm, self.k_norm)
        own: tuple = ()
        for place in places:
            own += (ABSENT if place is None else weights[place],)
        adapters = adapters_at(self.pairs, weights, places[:4])
        found = self.decode(x, weights[self.input_norm], own, tables, positions, keys, values, adapters)
        return x + self.leave(found) if self.is_split else found

    def _attended(
        self, q: Tensor, k: Tensor, v: Tensor, weights: tuple, inputs: tuple, results: tuple
    ) -> tuple[Tensor, tuple]:
        query, key, value = self._turned_by_token(q, k, v, weights, inputs[:4])
        arguments = (query, self.gather_keys(key), self.gather_values(value), inputs[4])
        found = self.attend(*arguments) if len(results) == 0 else self.attend_known(*arguments, *results)
        return found[0], found


NATIVE_ATTENTIONS = {"grouped_query": NativeAttention}  # by the names of shapes.layer_blocks.BLOCKS
