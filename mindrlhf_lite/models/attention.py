"""The attention block of a decoder layer: norm, q, k, v, rotary embedding, attention, output projection."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from mindspore import Tensor, ops

from mindrlhf_lite.models.block import Block
from mindrlhf_lite.models.packed_attention import key_rows, visibility_mask
from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.parallel.collectives import gather_tokens
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.shapes.model_config import ModelConfig

_bias_add = ops.BiasAdd()


class GroupedQueryAttention(Block):
    """Attention in which groups of query heads share a key and value head (arXiv:2305.13245).

    It runs over packed sequences (`run`: training and scoring), or in two parts, `project` and `added`, between which
    prefill attends within rows (`attend_causally`) and decoding over caches.
    """

    input_norm_name = "input_layernorm.weight"
    num_products = 4  # q, k, v, added

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
        self.num_heads, self.head_dim = config.num_attention_heads // mesh.dims.tensor, config.head_dim
        self.num_kv_heads = max(1, config.num_key_value_heads // mesh.dims.tensor)
        self.q, self.k, self.v, self.o = (places[f"self_attn.{name}_proj.weight"] for name in "qkvo")
        self.q_bias, self.k_bias, self.v_bias = (
            places.get(f"self_attn.{name}_proj.bias") for name in "qkv"
        )  # None where there is none
        self.q_norm, self.k_norm = (places.get(f"self_attn.{name}_norm.weight") for name in "qk")
        kernels = self.kernels
        self.rotate, self.attend_causally = kernels.rotary(precision), kernels.causal_attention(precision)
        self.attention = kernels.packed_attention(precision, self.num_heads)
        self.known_attention = kernels.known_attention(precision, self.num_heads)
        self.gather_keys, self.gather_values = gather_tokens(mesh.context), gather_tokens(mesh.context)

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
        """What `run` takes of packed sequences: (cos, sin, cos * scale, sin * scale of this rank's tokens, and what
        they attend to): of this form, of blocks of tokens, rows and mask.

        Args: rotary: tables by position; part: which of so many tokens, or blocks, are this rank's; the others as of
        `visibility_mask`, of the whole stream.
        """
        width, own = len(positions) // len(keys), part(len(keys))
        rows = key_rows(keys[own], width, self.num_kv_heads)
        mask = visibility_mask(positions, segments, prompts, keys, used)[own]
        own_positions = positions.reshape(-1, width)[own]
        cos, sin = (table[own_positions].reshape(-1, 1, width, self.head_dim) for table in rotary)
        return cos, sin, cos * scale, sin * scale, rows, mask

    def _biased(self, projected: Tensor, weights: tuple, bias: int | None, norm: int | None) -> Tensor:
        if bias is not None:
            projected = self.low(_bias_add(projected, self.low_weight(weights[bias])))
        if norm is not None:
            projected = self.norm(projected.reshape(-1, self.head_dim), weights[norm])
        return projected

    def _heads(
        self, projected: Tensor, weights: tuple, bias: int | None, norm: int | None, batch: int, length: int, heads: int
    ) -> Tensor:
        projected = self._biased(projected, weights, bias, norm)
        return projected.reshape(batch, length, heads, self.head_dim).transpose(0, 2, 1, 3)

    def _products(self, x: Tensor, weights: tuple) -> tuple[Tensor, Tensor, Tensor]:
        normed = self.normed(x, weights)
        return (
            self.product(normed, weights, self.q),
            self.product(normed, weights, self.k),
            self.product(normed, weights, self.v),
        )

    def _turned(
        self, q: Tensor, k: Tensor, v: Tensor, weights: tuple, tables: tuple, batch: int, length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        cos, sin, scaled_cos, scaled_sin = tables
        query = self._heads(q, weights, self.q_bias, self.q_norm, batch, length, self.num_heads)
        key = self._heads(k, weights, self.k_bias, self.k_norm, batch, length, self.num_kv_heads)
        value = self._heads(v, weights, self.v_bias, None, batch, length, self.num_kv_heads)
        return self.rotate(query, scaled_cos, scaled_sin), self.rotate(key, cos, sin), value

    def project(
        self, x: Tensor, weights: tuple, tables: tuple, batch: int, length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Args: x [B*T, H]; tables (cos, sin, cos * scale, sin * scale), broadcastable to [B, heads, T, D].

        Returns: query [B, heads, T, D] scaled by head_dim ** -0.5, key and value [B, kv_heads, T, D].
        """
        q, k, v = self._products(x, weights)
        return self._turned(q, k, v, weights, tables, batch, length)

    def added(self, attended: Tensor, weights: tuple) -> Tensor:
        """What attention adds to the residual stream [tokens, H]. Args: attended [tokens, heads * D]."""
        return self.low(self.leave(self.product(attended, weights, self.o)))

    def run(
        self, x: Tensor, weights: tuple, inputs: tuple, products: tuple, results: tuple
    ) -> tuple[Tensor, tuple, tuple]:
        """Over a stream of packed sequences x [T, H].

        Args: inputs: as of `Decoder.attention_inputs`; products, results: of an earlier run, which then do not run
        again, or ().
        Returns: (what is added to the stream [T, H], its products, attention's results).
        """
        q, k, v = self._products(x, weights)
        if len(products) > 0:
            q, k, v = self.known(q, products[0]), self.known(k, products[1]), self.known(v, products[2])
        by_token, found = self._attended(q, k, v, weights, inputs, results)
        added = self.added(by_token, weights)
        if len(products) > 0:
            added = self.known(added, products[3])
        return added, (q, k, v, added), found

    def _attended(
        self, q: Tensor, k: Tensor, v: Tensor, weights: tuple, inputs: tuple, results: tuple
    ) -> tuple[Tensor, tuple]:
        """(what the products attend to [T, heads * D], attention's results). Args: inputs, results: as of `run`."""
        tables, rows, mask = inputs[:4], inputs[4], inputs[5]
        blocks, width, _ = mask.shape
        query, key, value = self._turned(q, k, v, weights, tables, blocks, width)
        keys = self.gather_keys(key.reshape(-1, self.head_dim))
        arguments = (query, keys, self.gather_values(value.reshape(-1, self.head_dim)), rows, mask)
        found = self.attention(*arguments) if len(results) == 0 else self.known_attention(*arguments, *results)
        return found[0].transpose(0, 2, 1, 3).reshape(blocks * width, -1), found


ATTENTIONS = {"grouped_query": GroupedQueryAttention}  # by the names of shapes.layer_blocks.BLOCKS
