"""Decoder layers of Qwen2, Qwen3 and Llama 3 in plain MindSpore operators: they run the same in jit on CPU and on
Ascend.

A layer is cut where the callers differ: `project` (norm, q/k/v, rotary) and `finish` (output projection, MLP) are
shared; between them training attends within packed sequences (`attend_packed`), prefill within rows
(`attend_causally`), and decoding over caches. Activations are [tokens, hidden]; which operator forms are fast on CPU
was measured (reductions over two-dimensional views, scaling folded into the rotary tables, the attention gradient
written out).

A rank holds the buffers that `parallel.layout` gives it: its heads and columns of every linear, its rows of the
vocabulary, its stage's layers. Between `enter` and `leave` a rank computes with its own columns, outside of them on the
residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindrlhf_lite.models.packed_attention import MASKED, PackedAttention, key_rows, visibility_mask
from mindrlhf_lite.models.spread import spread
from mindrlhf_lite.parallel.collectives import GatherRows, cut_tokens, enter_tensor_parallel, leave_tensor_parallel
from mindrlhf_lite.parallel.layout import EMBEDDING, FINAL_NORM, HEAD, Buffer, Strategy, buffers_at
from mindrlhf_lite.parallel.mesh import ALONE, RoleMesh
from mindrlhf_lite.shapes.model_config import ModelConfig, RopeScaling

_linear = ops.MatMul(transpose_b=True)
_batch_matmul = ops.BatchMatMul()
_batch_matmul_tb = ops.BatchMatMul(transpose_b=True)
_batch_matmul_ta = ops.BatchMatMul(transpose_a=True)
_softmax = ops.Softmax(-1)
_mean = ops.ReduceMean(keep_dims=True)
_rsqrt = ops.Rsqrt()
_bias_add = ops.BiasAdd()
_halves = ops.Split(-1, 2)
_concat = ops.Concat(-1)


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


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = _halves(x)
    return x * spread(cos, x.shape) + _concat((-second, first)) * spread(sin, x.shape)


def causal_mask(length: int) -> Tensor:
    """Additive mask, float32 [1, length, length]. Sequences are padded on the right, so it also hides padding from
    valid tokens.
    """
    positions = ops.arange(length)
    visible = positions.reshape(1, length, 1) >= positions.reshape(1, 1, length)
    return (1.0 - visible.astype(ms.float32)) * MASKED


class CausalAttention(nn.Cell):
    """softmax(q k^T + mask) v with its gradient written out: it reads the saved probabilities and takes
    rowsum(dP * P) as rowsum(dO * O) (FlashAttention, arXiv:2205.14135, eq. 4), which is a third faster than autodiff on
    CPU.
    """

    def construct(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Args: query [B*KV, G*T, D], already scaled; key, value [B*KV, T, D]; mask [1, T, T]. Returns ([B*KV, G*T, D],
        probabilities).
        """
        pairs, rows, _ = query.shape
        length = key.shape[1]
        scores = _batch_matmul_tb(query, key).reshape(pairs * rows // length, length, length)
        scores = scores + spread(mask, scores.shape)
        probabilities = _softmax(scores.reshape(-1, length)).reshape(pairs, rows, length)
        return _batch_matmul(probabilities, value), probabilities

    def bprop(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, out: tuple, gradients: tuple) -> tuple:
        output, probabilities = out
        doutput = gradients[0]
        length, head_dim = probabilities.shape[-1], query.shape[-1]
        dprobabilities = _batch_matmul_tb(doutput, value).reshape(-1, length)
        row_sum = _mean((doutput * output).reshape(-1, head_dim), -1) * head_dim
        dscores = (
            probabilities.reshape(-1, length) * (dprobabilities - spread(row_sum, dprobabilities.shape))
        ).reshape(probabilities.shape)
        return (
            _batch_matmul(dscores, key),
            _batch_matmul_ta(dscores, query),
            _batch_matmul_ta(probabilities, doutput),
            ops.zeros_like(mask),
        )


class DecoderLayer(nn.Cell):
    """One decoder layer; holds this rank's shards of the parameters of its index."""

    def __init__(
        self,
        config: ModelConfig,
        prefix: str,
        parameters: Mapping[str, Parameter],
        mesh: RoleMesh,
        is_sequence_split: bool,
    ):
        super().__init__(auto_prefix=False)
        self.num_heads, self.head_dim = config.num_attention_heads // mesh.dims.tensor, config.head_dim
        self.num_kv_heads = max(1, config.num_key_value_heads // mesh.dims.tensor)
        self.eps = config.rms_norm_eps
        self.enter_attention, self.enter_mlp = (enter_tensor_parallel(mesh.tensor, is_sequence_split) for _ in range(2))
        self.leave_attention, self.leave_mlp = (leave_tensor_parallel(mesh.tensor, is_sequence_split) for _ in range(2))
        self.attention_norm = parameters[prefix + "input_layernorm.weight"]
        attention = prefix + "self_attn."
        self.q_weight, self.k_weight, self.v_weight = (parameters[f"{attention}{name}_proj.weight"] for name in "qkv")
        self.q_bias, self.k_bias, self.v_bias = (
            parameters.get(f"{attention}{name}_proj.bias") for name in "qkv"
        )  # None where there is none
        self.q_norm, self.k_norm = (parameters.get(f"{attention}{name}_norm.weight") for name in "qk")
        self.o_weight = parameters[prefix + "self_attn.o_proj.weight"]
        self.mlp_norm = parameters[prefix + "post_attention_layernorm.weight"]
        self.gate_weight, self.up_weight = (
            parameters[prefix + "mlp.gate_proj.weight"],
            parameters[prefix + "mlp.up_proj.weight"],
        )
        self.down_weight = parameters[prefix + "mlp.down_proj.weight"]
        self.attention, self.packed_attention = CausalAttention(), PackedAttention()

    def _heads(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, norm: Tensor | None, batch: int, length: int, heads: int
    ) -> Tensor:
        projected = _linear(x, weight)
        if bias is not None:
            projected = _bias_add(projected, bias)
        if norm is not None:
            projected = rms_norm(projected.reshape(-1, self.head_dim), norm, self.eps)
        return projected.reshape(batch, length, heads, self.head_dim).transpose(0, 2, 1, 3)

    def project(self, x: Tensor, tables: tuple, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Args: x [B*T, H]; tables (cos, sin, cos * scale, sin * scale), broadcastable to [B, heads, T, D].

        Returns: query [B, heads, T, D] scaled by head_dim ** -0.5, key and value [B, kv_heads, T, D].
        """
        cos, sin, scaled_cos, scaled_sin = tables
        normed = self.enter_attention(rms_norm(x, self.attention_norm, self.eps))
        query = self._heads(normed, self.q_weight, self.q_bias, self.q_norm, batch, length, self.num_heads)
        key = self._heads(normed, self.k_weight, self.k_bias, self.k_norm, batch, length, self.num_kv_heads)
        value = self._heads(normed, self.v_weight, self.v_bias, None, batch, length, self.num_kv_heads)
        return _rotate(query, scaled_cos, scaled_sin), _rotate(key, cos, sin), value

    def attend_causally(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Each token attends to its own sequence up to itself. Returns [B*T, heads * D]."""
        batch, heads, length, head_dim = query.shape
        pairs = batch * self.num_kv_heads
        attended, _ = self.attention(
            query.reshape(pairs, heads // self.num_kv_heads * length, head_dim),
            key.reshape(pairs, length, head_dim),
            value.reshape(pairs, length, head_dim),
            mask,
        )
        return (
            attended.reshape(batch, heads, length, head_dim)
            .transpose(0, 2, 1, 3)
            .reshape(batch * length, heads * head_dim)
        )

    def attend_packed(self, query: Tensor, key: Tensor, value: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        """Blocks of a stream of packed sequences (see `PackedAttention`), each [blocks, heads, width, D]. Returns
        [blocks * width, heads * D].
        """
        blocks, heads, width, head_dim = query.shape
        attended, _ = self.packed_attention(
            query.reshape(blocks * self.num_kv_heads, -1, head_dim),
            key.reshape(-1, head_dim),
            value.reshape(-1, head_dim),
            rows,
            mask,
        )
        return (
            attended.reshape(blocks, heads, width, head_dim)
            .transpose(0, 2, 1, 3)
            .reshape(blocks * width, heads * head_dim)
        )

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Adds the attention output ([tokens, heads * D]) and the MLP to the residual stream x [tokens, H]."""
        x = x + self.leave_attention(_linear(attended, self.o_weight))
        normed = self.enter_mlp(rms_norm(x, self.mlp_norm, self.eps))
        return x + self.leave_mlp(
            _linear(ops.silu(_linear(normed, self.gate_weight)) * _linear(normed, self.up_weight), self.down_weight)
        )

    def construct(self, x: Tensor, tables: tuple, rows: Tensor, mask: Tensor) -> Tensor:
        """The whole layer over packed sequences."""
        blocks, width, _ = mask.shape
        query, key, value = self.project(x, tables, blocks, width)
        return self.finish(x, self.attend_packed(query, key, value, rows, mask))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension of x [tokens, H] (arXiv:1910.07467)."""
    return x * spread(_rsqrt(_mean(x * x, -1) + eps), x.shape) * spread(weight.reshape(1, -1), x.shape)


class Decoder(nn.Cell):
    """The decoder, or this rank's share of it: parameters under their buffers' names, `hidden` for whole sequences,
    `head` for logits.

    Args:
        config: its shape.
        weights: float32 arrays by buffer name, as `fill_buffers` returns them; on one rank, all tensors of the model.
            Copied.
        trainable: whether the parameters take gradients.
        max_length: longest sequence; sizes the rotary tables.
        mesh: the role's axes.
        strategy: how the weights lie on the ranks; None: whole, on one rank.
        is_sequence_split: whether the residual stream's tokens are split over the tensor axis (sequence parallelism).
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, np.ndarray],
        trainable: bool,
        max_length: int,
        mesh: RoleMesh = ALONE,
        strategy: Strategy | None = None,
        is_sequence_split: bool = False,
    ):
        super().__init__(auto_prefix=False)
        self.config, self.max_length, self.mesh = config, max_length, mesh
        self.strategy = strategy or Strategy(mesh.dims)
        self.tensor_degree, self.is_first_stage = mesh.dims.tensor, mesh.is_first_stage
        self.is_sequence_split = is_sequence_split and mesh.tensor is not None
        self.buffers: list[Buffer] = buffers_at(config, self.strategy, mesh.at)
        # a copy: a Tensor may share numpy's memory, and two roles must not share weights by accident
        by_name = {
            b.name: Parameter(Tensor(np.array(weights[b.name], np.float32)), name=b.name, requires_grad=trainable)
            for b in self.buffers
        }
        own_layers = self.strategy.layers_of_stage(config.num_hidden_layers)[mesh.at.stage]
        self.layers = nn.CellList(
            [DecoderLayer(config, f"model.layers.{i}.", by_name, mesh, is_sequence_split) for i in own_layers],
            auto_prefix=False,
        )
        self.num_layers, self.first_layer = len(own_layers), own_layers[0]  # of this stage
        self.eps = config.rms_norm_eps
        self.parameters_in_order = ms.ParameterTuple([by_name[buffer.name] for buffer in self.buffers])
        self._build_ends(by_name, mesh)
        cos, sin = rotary_tables(config, max_length)
        scale = np.float32(config.head_dim**-0.5)
        self.cos, self.sin, self.scaled_cos, self.scaled_sin = (
            Tensor(table) for table in (cos, sin, cos * scale, sin * scale)
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
        if not self.splits_embedding:
            return self.cut_tokens(ops.gather(self.embedding, token_ids, 0))
        local = token_ids - self.first_row
        is_here = ops.logical_and(local >= 0, local < self.rows).astype(ms.float32).reshape(-1, 1)
        embedded = ops.gather(self.embedding, ops.minimum(ops.maximum(local, 0), self.rows - 1), 0)
        return self.leave_embedding(embedded * spread(is_here, embedded.shape))

    def run_layers(self, x: Tensor, packed: tuple, start: int, stop: int) -> Tensor:
        """Layers start..stop-1 of this stage over packed sequences. The model's first layer embeds them and ignores x;
        the others take x, the residual stream that the layer before returned.

        Args: packed: token ids, positions, segments, prompts [T], keys [blocks, K], used [blocks], all int32 (see
        `visibility_mask`).
        Returns: the residual stream, [T, H] or this tensor rank's token shard of it.
        """
        token_ids, positions, segments, prompts, keys, used = packed
        if self.is_first_stage and start == 0:
            x = self.embed(token_ids)
        blocks = keys.shape[0]
        tables = self.tables_at(positions.reshape(blocks, -1))
        rows = key_rows(keys, token_ids.shape[0] // blocks, self.layers[0].num_kv_heads)
        mask = visibility_mask(positions, segments, prompts, keys, used)
        for index in range(start, stop):
            x = self.layers[index](x, tables, rows, mask)
        return x

    def run_stage(self, x: Tensor, packed: tuple) -> Tensor:
        """All layers of this stage."""
        return self.run_layers(x, packed, 0, self.num_layers)

    def weights_of_layers(self, start: int, stop: int) -> list[int]:
        """Places in `parameters_in_order` of what layers start..stop-1 of this stage compute with; the first one brings
        the embedding, the last one the head.
        """
        numbers = {str(self.first_layer + index) for index in range(start, stop)}
        ends = {EMBEDDING} if self.is_first_stage and start == 0 else set()
        if self.final_norm is not None and stop == self.num_layers:
            ends |= {FINAL_NORM, HEAD if HEAD in self.named_weights() else EMBEDDING}
        names = [parameter.name for parameter in self.parameters_in_order]
        return [
            place
            for place, name in enumerate(names)
            if name in ends or (name.startswith("model.layers.") and name.split(".")[2] in numbers)
        ]

    def hidden(self, token_ids: Tensor) -> Tensor:
        """Final-normed hidden states [B*T, H] of right-padded sequences token_ids [B, T] int32; all stages on this
        rank.
        """
        batch, length = token_ids.shape
        x, tables, mask = self.embed(token_ids.reshape(-1)), self.tables(length), causal_mask(length)
        for layer in self.layers:
            query, key, value = layer.project(x, tables, batch, length)
            x = layer.finish(x, layer.attend_causally(query, key, value, mask))
        return self.norm(x)

    def norm(self, x: Tensor) -> Tensor:
        """The final norm over the residual stream; every tensor rank gets all rows [tokens, H]. Last stage only."""
        return self.enter_head(rms_norm(x, self.final_norm, self.eps))

    def logits(self, hidden: Tensor) -> Tensor:
        """[tokens, H] after `norm` -> [tokens, V], whole on every tensor rank. Not for training: see
        `TokenLogprobs`.
        """
        logits = _linear(hidden, self.head)
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
        return {parameter.name: parameter.asnumpy().copy() for parameter in self.parameters_in_order}
