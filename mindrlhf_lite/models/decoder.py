"""Decoder layers of Qwen2, Qwen3 and Llama 3 in plain MindSpore operators: they run the same in jit on CPU and on
Ascend.

A layer runs over packed sequences (`run`: training and scoring), or in two parts, `project` (norm, q/k/v, rotary) and
`finish` (output projection, MLP), between which prefill attends within rows (`attend_causally`) and decoding over
caches. Its weights are arguments: one graph serves all layers of a model. Activations are [tokens, hidden]; which
operator forms are fast on CPU was measured (reductions over two-dimensional views, scaling folded into the rotary
tables, the attention gradient written out).

A rank holds the buffers that `parallel.layout` gives it: its heads and columns of every linear, its rows of the
vocabulary, its stage's layers. Between `enter` and `leave` a rank computes with its own columns, outside of them on the
residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindrlhf_lite.models.kernels import kernels_of
from mindrlhf_lite.models.packed_attention import MASKED, Known, key_rows, visibility_mask
from mindrlhf_lite.models.precision import FLOAT32, Precision, full, to_compute, weight_to_compute
from mindrlhf_lite.models.spread import spread
from mindrlhf_lite.models.zeros import zeros
from mindrlhf_lite.parallel.collectives import (
    GatherRows,
    cut_tokens,
    enter_tensor_parallel,
    gather_tokens,
    leave_tensor_parallel,
)
from mindrlhf_lite.parallel.layout import EMBEDDING, FINAL_NORM, HEAD, Buffer, Strategy, buffers_at
from mindrlhf_lite.parallel.mesh import ALONE, RoleMesh
from mindrlhf_lite.shapes.model_config import ModelConfig, RopeScaling

NUM_PRODUCTS = 6  # of what a layer's run returns, those before attention's results: q, k, v, added, gate, up

_linear = ops.MatMul(transpose_b=True)
_bias_add = ops.BiasAdd()


def rotary_tables(config: ModelConfig, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(cos, sin), each float32 [length, head_dim], in the half-split layout (RoFormer, arXiv:2104.09864, as Hugging
    Face lays it out).
    """
    inverse_frequency = 1.0 / (
        config.rope_theta ** (np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    )
    if config.rope_scaling is not None:
        inverse_frequency = stretched(inverse_frequency, config.rope_scaling)
    angles = np.arange(length, dtype=np.float64)[:, None] * inverse_frequency[None]
    angles = np.concatenate([angles, angles], -1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def stretched(inverse_frequency: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Llama 3.1's frequencies (arXiv:2407.21783; as Hugging Face's rope_type "llama3"): turns over the original context
    decide, many keep a frequency, few divide it by `factor`, between them it goes from one to the other linearly in the
    number of turns.
    """
    turns = scaling.original_max_position_embeddings * inverse_frequency / (2 * np.pi)
    kept = np.clip((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0)
    return inverse_frequency * (kept + (1 - kept) / scaling.factor)


def causal_mask(length: int) -> Tensor:
    """Additive mask, float32 [1, length, length]. Sequences are padded on the right, so it also hides padding from
    valid tokens.
    """
    positions = ops.arange(length)
    visible = positions.reshape(1, length, 1) >= positions.reshape(1, 1, length)
    return (1.0 - visible.astype(ms.float32)) * MASKED


class DecoderLayer(nn.Cell):
    """One decoder layer. Its methods take the weights as an argument, in the order of `weights`, so that one graph can
    serve every layer of a model; a graph of all layers passes each its own `weights`.
    """

    def __init__(
        self,
        config: ModelConfig,
        prefix: str,
        parameters: Mapping[str, Parameter],
        mesh: RoleMesh,
        is_sequence_split: bool,
        precision: Precision,
        is_trained: bool,
    ):
        super().__init__(auto_prefix=False)
        self.low, self.low_weight = to_compute(precision), weight_to_compute(precision, is_trained)
        self.num_heads, self.head_dim = config.num_attention_heads // mesh.dims.tensor, config.head_dim
        self.num_kv_heads = max(1, config.num_key_value_heads // mesh.dims.tensor)
        self.enter_attention, self.enter_mlp = (enter_tensor_parallel(mesh.tensor, is_sequence_split) for _ in range(2))
        self.leave_attention, self.leave_mlp = (leave_tensor_parallel(mesh.tensor, is_sequence_split) for _ in range(2))
        names = [name for name in parameters if name.startswith(prefix)]
        self.weights = ms.ParameterTuple([parameters[name] for name in names])
        places = {name.removeprefix(prefix): place for place, name in enumerate(names)}
        self.attention_norm, self.mlp_norm = places["input_layernorm.weight"], places["post_attention_layernorm.weight"]
        self.q, self.k, self.v, self.o = (places[f"self_attn.{name}_proj.weight"] for name in "qkvo")
        self.q_bias, self.k_bias, self.v_bias = (
            places.get(f"self_attn.{name}_proj.bias") for name in "qkv"
        )  # None where there is none
        self.q_norm, self.k_norm = (places.get(f"self_attn.{name}_norm.weight") for name in "qk")
        self.gate, self.up, self.down = (places[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        kernels = kernels_of(precision, self.head_dim)
        self.normalise, self.rotate = kernels.norm(precision, config.rms_norm_eps), kernels.rotary(precision)
        self.gated, self.attend_causally = kernels.gate(precision), kernels.causal_attention(precision)
        self.attention = kernels.packed_attention(precision, self.num_heads)
        self.known_attention = kernels.known_attention(precision, self.num_heads)
        self.known = Known()
        self.gather_keys, self.gather_values = gather_tokens(mesh.context), gather_tokens(mesh.context)

    def _heads(
        self, projected: Tensor, weights: tuple, bias: int | None, norm: int | None, batch: int, length: int, heads: int
    ) -> Tensor:
        if bias is not None:
            projected = self.low(_bias_add(projected, self.low_weight(weights[bias])))
        if norm is not None:
            projected = self._norm(projected.reshape(-1, self.head_dim), weights[norm])
        return projected.reshape(batch, length, heads, self.head_dim).transpose(0, 2, 1, 3)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.normalise(x, self.low_weight(weight))

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.low(_linear(x, self.low_weight(weight)))

    def _products(self, x: Tensor, weights: tuple) -> tuple[Tensor, Tensor, Tensor]:
        normed = self.enter_attention(self._norm(x, weights[self.attention_norm]))
        return (
            self._product(normed, weights[self.q]),
            self._product(normed, weights[self.k]),
            self._product(normed, weights[self.v]),
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

    def finish(self, x: Tensor, attended: Tensor, weights: tuple) -> Tensor:
        """Adds the attention output ([tokens, heads * D]) and the MLP to the residual stream x [tokens, H]."""
        x = self.low(x + self._added(attended, weights))
        normed = self.enter_mlp(self._norm(x, weights[self.mlp_norm]))
        gate, up = self._product(normed, weights[self.gate]), self._product(normed, weights[self.up])
        return self._with_mlp(x, gate, up, weights)

    def _added(self, attended: Tensor, weights: tuple) -> Tensor:
        return self.low(self.leave_attention(self._product(attended, weights[self.o])))

    def _with_mlp(self, x: Tensor, gate: Tensor, up: Tensor, weights: tuple) -> Tensor:
        added = self.leave_mlp(self._product(self.gated(gate, up), weights[self.down]))
        return self.low(x + self.low(added))

    def run(self, x: Tensor, weights: tuple, attention: tuple, known: tuple = ()) -> tuple[Tensor, tuple]:
        """The layer over a stream of packed sequences x [T, H].

        Args: attention: as of `Decoder.attention_inputs`; known: the second result of an earlier run, or its first
        NUM_PRODUCTS entries, or (). What is known does not run again, for a backward pass.
        Returns: (output [T, H], results of matrix products and of attention).
        """
        tables, rows, mask = attention[:4], attention[4], attention[5]
        blocks, width, _ = mask.shape
        q, k, v = self._products(x, weights)
        q, k, v = self._result(q, known, 0), self._result(k, known, 1), self._result(v, known, 2)
        query, key, value = self._turned(q, k, v, weights, tables, blocks, width)
        keys = self.gather_keys(key.reshape(-1, self.head_dim))
        inputs = (query, keys, self.gather_values(value.reshape(-1, self.head_dim)), rows, mask)
        attention_results = (
            self.attention(*inputs)
            if len(known) <= NUM_PRODUCTS
            else self.known_attention(*inputs, *known[NUM_PRODUCTS:])
        )
        heads = attention_results[0]
        by_token = heads.transpose(0, 2, 1, 3).reshape(blocks * width, -1)
        added = self._result(self._added(by_token, weights), known, 3)
        x = self.low(x + added)
        normed = self.enter_mlp(self._norm(x, weights[self.mlp_norm]))
        gate = self._result(self._product(normed, weights[self.gate]), known, 4)
        up = self._result(self._product(normed, weights[self.up]), known, 5)
        return self._with_mlp(x, gate, up, weights), (q, k, v, added, gate, up, *attention_results)

    def _result(self, computed: Tensor, known: tuple, place: int) -> Tensor:
        return computed if len(known) == 0 else self.known(computed, known[place])


class Decoder(nn.Cell):
    """The decoder, or this rank's share of it: parameters under their buffers' names, `hidden` for whole sequences,
    `head` for logits.

    Args:
        config: its shape.
        weights: float32 arrays by buffer name, as `fill_buffers` returns them; on one rank, all tensors of the model.
            Copied, rounded to what `precision` stores. None: zeros.
        trainable: whether the parameters take gradients.
        max_length: longest sequence; sizes the rotary tables.
        mesh: the role's axes.
        strategy: how the weights lie on the ranks; None: whole, on one rank.
        is_sequence_split: whether the residual stream's tokens are split over the tensor axis (sequence parallelism).
        precision: what it computes in, and stores.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, np.ndarray] | None,
        trainable: bool,
        max_length: int,
        mesh: RoleMesh = ALONE,
        strategy: Strategy | None = None,
        is_sequence_split: bool = False,
        precision: Precision = FLOAT32,
    ):
        super().__init__(auto_prefix=False)
        self.config, self.max_length, self.mesh, self.precision = config, max_length, mesh, precision
        self.low, self.low_weight = to_compute(precision), weight_to_compute(precision, trainable)
        self.normalise = kernels_of(precision, config.head_dim).norm(precision, config.rms_norm_eps)
        self.strategy = strategy or Strategy(mesh.dims)
        self.tensor_degree, self.is_first_stage = mesh.dims.tensor, mesh.is_first_stage
        self.is_sequence_split = is_sequence_split and mesh.tensor is not None
        self.buffers: list[Buffer] = buffers_at(config, self.strategy, mesh.at)
        # a copy: a Tensor may share numpy's memory, and two roles must not share weights by accident
        by_name = {
            b.name: Parameter(
                zeros(b.shape, precision.storage) if weights is None else precision.stored(weights[b.name]),
                name=b.name,
                requires_grad=trainable,
            )
            for b in self.buffers
        }
        own_layers = self.strategy.layers_of_stage(config.num_hidden_layers)[mesh.at.stage]
        self.layers = nn.CellList(
            [
                DecoderLayer(config, f"model.layers.{i}.", by_name, mesh, is_sequence_split, precision, trainable)
                for i in own_layers
            ],
            auto_prefix=False,
        )
        self.num_layers, self.first_layer = len(own_layers), own_layers[0]  # of this stage
        self.parameters_in_order = ms.ParameterTuple([by_name[buffer.name] for buffer in self.buffers])
        self._build_ends(by_name, mesh)
        self.rotary, self.scale = rotary_tables(config, max_length), np.float32(config.head_dim**-0.5)
        cos, sin = self.rotary
        self.cos, self.sin, self.scaled_cos, self.scaled_sin = (
            Tensor(table) for table in (cos, sin, cos * self.scale, sin * self.scale)
        )

    def _build_ends(self, by_name: Mapping[str, Parameter], mesh: RoleMesh) -> None:
        """The embedding on the first stage, the final norm and the head on the last."""
        self.embedding = by_name.get(EMBEDDING)
        self.splits_embedding = self.strategy.splits_embedding and mesh.tensor is not None
        if self.embedding is not None:
            self.first_row, self.rows = mesh.at.tensor * self.embedding.shape[0], self.embedding.shape[0]
            self.leave_embedding = leave_tensor_parallel(
                mesh.tensor if self.splits_embedding else None, self.is_sequence_split
            )
            self.cut_tokens = cut_tokens(mesh.tensor, self.is_sequence_split and not self.splits_embedding)
        self.final_norm = by_name.get(FINAL_NORM)
        self.head = None
        if self.final_norm is not None:
            self.head = by_name.get(HEAD, self.embedding)
            self.enter_head = enter_tensor_parallel(mesh.tensor, self.is_sequence_split)
            self.gather_logits = GatherRows(mesh.tensor)

    def tables(self, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotary tables of positions 0..length-1, each [1, 1, length, D]."""
        shape = (1, 1, length, self.config.head_dim)
        return (
            self.cos[:length].reshape(shape),
            self.sin[:length].reshape(shape),
            self.scaled_cos[:length].reshape(shape),
            self.scaled_sin[:length].reshape(shape),
        )

    def tables_at(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotary tables at positions [B] or [B, T], each [B, 1, 1 or T, D]."""
        shape = (positions.shape[0], 1, -1, self.config.head_dim)
        cos, sin = ops.gather(self.cos, positions, 0).reshape(shape), ops.gather(self.sin, positions, 0).reshape(shape)
        scaled_cos = ops.gather(self.scaled_cos, positions, 0).reshape(shape)
        return cos, sin, scaled_cos, ops.gather(self.scaled_sin, positions, 0).reshape(shape)

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids [tokens] int32 -> [tokens, H]; first stage only."""
        return self.placed(ops.gather(self.embedding, self.rows_of(token_ids), 0), token_ids)

    def rows_of(self, token_ids: Tensor) -> Tensor:
        """The rows of this rank's part of the embedding that tokens are looked up in; any row for others' tokens."""
        if not self.splits_embedding:
            return token_ids
        return ops.minimum(ops.maximum(token_ids - self.first_row, 0), self.rows - 1)

    def placed(self, embedded: Tensor, token_ids: Tensor) -> Tensor:
        """Rows looked up on this rank [tokens, H] -> the residual stream."""
        embedded = self.low(embedded)
        if not self.splits_embedding:
            return self.cut_tokens(embedded)
        local = token_ids - self.first_row
        is_here = ops.logical_and(local >= 0, local < self.rows).astype(embedded.dtype).reshape(-1, 1)
        return self.leave_embedding(embedded * spread(is_here, embedded.shape))

    def attention_inputs(
        self, positions: np.ndarray, segments: np.ndarray, prompts: np.ndarray, keys: np.ndarray, used: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """What every layer's attention over packed sequences takes: (cos, sin, cos * scale, sin * scale of the blocks,
        rows, mask), of this rank's blocks. Args: as of `visibility_mask`, of the whole stream.
        """
        width, own = len(positions) // len(keys), self.own_part(len(keys))
        rows = key_rows(keys[own], width, self.layers[0].num_kv_heads)
        mask = visibility_mask(positions, segments, prompts, keys, used)[own]
        own_positions = positions.reshape(-1, width)[own]
        cos, sin = (table[own_positions].reshape(-1, 1, width, self.config.head_dim) for table in self.rotary)
        return cos, sin, cos * self.scale, sin * self.scale, rows, mask

    def own_part(self, count: int) -> slice:
        """Which of `count` tokens, or blocks of them, this rank computes: all, where no others share its sequences."""
        part = count // self.mesh.dims.context
        return slice(self.mesh.context_index * part, (self.mesh.context_index + 1) * part)

    def hidden(self, token_ids: Tensor) -> Tensor:
        """Final-normed hidden states [B*T, H] of right-padded sequences token_ids [B, T] int32; all stages on this
        rank.
        """
        batch, length = token_ids.shape
        x, tables, mask = self.embed(token_ids.reshape(-1)), self.tables(length), causal_mask(length)
        for layer in self.layers:
            query, key, value = layer.project(x, layer.weights, tables, batch, length)
            x = layer.finish(x, layer.attend_causally(query, key, value, mask), layer.weights)
        return self.norm(x)

    def norm(self, x: Tensor) -> Tensor:
        """The final norm over the residual stream; every tensor rank gets all rows [tokens, H]. Last stage only."""
        return self.enter_head(self.normalise(x, self.low_weight(self.final_norm)))

    def logits(self, hidden: Tensor) -> Tensor:
        """[tokens, H] after `norm` -> [tokens, V], whole on every tensor rank. Not for training: see
        `TokenLogprobs`.
        """
        logits = full(self.low(_linear(hidden, self.low_weight(self.head))))
        if self.tensor_degree == 1:
            return logits
        tokens = hidden.shape[0]
        gathered = (
            self.gather_logits(logits).reshape(self.tensor_degree, tokens, -1).transpose(1, 0, 2).reshape(tokens, -1)
        )
        return gathered[:, : self.config.vocab_size]

    def construct(self, token_ids: Tensor) -> Tensor:
        """Logits [B, T, V] of right-padded token_ids [B, T]; for tests and small inputs."""
        batch, length = token_ids.shape
        return self.logits(self.hidden(token_ids)).reshape(batch, length, -1)

    def named_weights(self) -> dict[str, Parameter]:
        """Parameters by buffer name."""
        return {parameter.name: parameter for parameter in self.parameters_in_order}

    def weights_as_numpy(self) -> dict[str, np.ndarray]:
        """A copy of this rank's buffers, float32 by name."""
        return {parameter.name: np.array(parameter.asnumpy(), np.float32) for parameter in self.parameters_in_order}
