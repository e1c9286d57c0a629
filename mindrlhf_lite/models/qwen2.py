"""Qwen2 decoder layers in plain MindSpore operators: they run the same in jit on CPU and on Ascend.

A layer is cut where the callers differ: `project` (norm, q/k/v, rotary) and `finish` (output projection, MLP) are shared;
between them training attends within the sequence (`attend_causally`) and the rollout engines attend over their caches.
Activations are [tokens, hidden]; which operator forms are fast on CPU was measured (reductions over two-dimensional views,
scaling folded into the rotary tables, the attention gradient written out).
"""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindrlhf_lite.models.model_config import ModelConfig
from mindrlhf_lite.models.parameters import parameter_specs

MASKED = -1e9  # additive mask: exp(MASKED - max) is exactly 0 in float32

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
    """(cos, sin), each float32 [length, head_dim], in the half-split layout (RoFormer, arXiv:2104.09864, as Hugging Face lays it out)."""
    inverse_frequency = 1.0 / (config.rope_theta ** (np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim))
    angles = np.arange(length, dtype=np.float64)[:, None] * inverse_frequency[None]
    angles = np.concatenate([angles, angles], -1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = _halves(x)
    return x * cos + _concat((-second, first)) * sin


def causal_mask(length: int) -> Tensor:
    """Additive mask, float32 [1, length, length]. Sequences are padded on the right, so it also hides padding from valid tokens."""
    positions = ops.arange(length)
    visible = positions.reshape(1, length, 1) >= positions.reshape(1, 1, length)
    return (1.0 - visible.astype(ms.float32)) * MASKED


class CausalAttention(nn.Cell):
    """softmax(q k^T + mask) v with its gradient written out: it reads the saved probabilities and takes
    rowsum(dP * P) as rowsum(dO * O) (FlashAttention, arXiv:2205.14135, eq. 4), which is a third faster than autodiff on CPU.
    """

    def construct(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Args: query [B*KV, G*T, D], already scaled; key, value [B*KV, T, D]; mask [1, T, T]. Returns ([B*KV, G*T, D], probabilities)."""
        pairs, rows, _ = query.shape
        length = key.shape[1]
        scores = _batch_matmul_tb(query, key).reshape(pairs * rows // length, length, length) + mask
        probabilities = _softmax(scores.reshape(-1, length)).reshape(pairs, rows, length)
        return _batch_matmul(probabilities, value), probabilities

    def bprop(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, out: tuple, gradients: tuple) -> tuple:
        output, probabilities = out
        doutput = gradients[0]
        length, head_dim = probabilities.shape[-1], query.shape[-1]
        dprobabilities = _batch_matmul_tb(doutput, value).reshape(-1, length)
        row_sum = _mean((doutput * output).reshape(-1, head_dim), -1) * head_dim
        dscores = (probabilities.reshape(-1, length) * (dprobabilities - row_sum)).reshape(probabilities.shape)
        return _batch_matmul(dscores, key), _batch_matmul_ta(dscores, query), _batch_matmul_ta(probabilities, doutput), ops.zeros_like(mask)


class DecoderLayer(nn.Cell):
    """One decoder layer; holds the twelve parameters of `parameter_specs` for its index."""

    def __init__(self, config: ModelConfig, prefix: str, parameters: Mapping[str, Parameter]):
        super().__init__(auto_prefix=False)
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.eps = config.rms_norm_eps
        self.attention_norm = parameters[prefix + "input_layernorm.weight"]
        self.q_weight, self.q_bias = parameters[prefix + "self_attn.q_proj.weight"], parameters[prefix + "self_attn.q_proj.bias"]
        self.k_weight, self.k_bias = parameters[prefix + "self_attn.k_proj.weight"], parameters[prefix + "self_attn.k_proj.bias"]
        self.v_weight, self.v_bias = parameters[prefix + "self_attn.v_proj.weight"], parameters[prefix + "self_attn.v_proj.bias"]
        self.o_weight = parameters[prefix + "self_attn.o_proj.weight"]
        self.mlp_norm = parameters[prefix + "post_attention_layernorm.weight"]
        self.gate_weight, self.up_weight = parameters[prefix + "mlp.gate_proj.weight"], parameters[prefix + "mlp.up_proj.weight"]
        self.down_weight = parameters[prefix + "mlp.down_proj.weight"]
        self.attention = CausalAttention()

    def _heads(self, x: Tensor, weight: Tensor, bias: Tensor, batch: int, length: int, heads: int) -> Tensor:
        return _bias_add(_linear(x, weight), bias).reshape(batch, length, heads, self.head_dim).transpose(0, 2, 1, 3)

    def project(self, x: Tensor, tables: tuple, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Args: x [B*T, H]; tables (cos, sin, cos * scale, sin * scale), broadcastable to [B, heads, T, D].

        Returns: query [B, heads, T, D] scaled by head_dim ** -0.5, key and value [B, kv_heads, T, D].
        """
        cos, sin, scaled_cos, scaled_sin = tables
        normed = rms_norm(x, self.attention_norm, self.eps)
        query = self._heads(normed, self.q_weight, self.q_bias, batch, length, self.num_heads)
        key = self._heads(normed, self.k_weight, self.k_bias, batch, length, self.num_kv_heads)
        value = self._heads(normed, self.v_weight, self.v_bias, batch, length, self.num_kv_heads)
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
        return attended.reshape(batch, heads, length, head_dim).transpose(0, 2, 1, 3).reshape(batch * length, heads * head_dim)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Adds the attention output ([tokens, heads * D]) and the MLP to the residual stream x [tokens, H]."""
        x = x + _linear(attended, self.o_weight)
        normed = rms_norm(x, self.mlp_norm, self.eps)
        return x + _linear(ops.silu(_linear(normed, self.gate_weight)) * _linear(normed, self.up_weight), self.down_weight)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension of x [tokens, H] (arXiv:1910.07467)."""
    return x * _rsqrt(_mean(x * x, -1) + eps) * weight


class Qwen2(nn.Cell):
    """The decoder: parameters under their Hugging Face names, `hidden` for whole sequences, `head_weight` for logits.

    Args:
        config: its shape.
        weights: float32 arrays by name, as `load_weights` returns them; copied.
        trainable: whether the parameters take gradients.
        max_length: longest sequence; sizes the rotary tables.
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, np.ndarray], trainable: bool, max_length: int):
        super().__init__(auto_prefix=False)
        self.config = config
        self.max_length = max_length
        specs = parameter_specs(config)
        # a copy: a Tensor may share numpy's memory, and two roles must not share weights by accident
        by_name = {s.name: Parameter(Tensor(np.array(weights[s.name], np.float32)), name=s.name, requires_grad=trainable) for s in specs}
        self.embedding = by_name["model.embed_tokens.weight"]
        self.layers = nn.CellList([DecoderLayer(config, f"model.layers.{i}.", by_name) for i in range(config.num_hidden_layers)], auto_prefix=False)
        self.final_norm = by_name["model.norm.weight"]
        self.eps = config.rms_norm_eps
        self.head = by_name["lm_head.weight"] if not config.tie_word_embeddings else self.embedding
        self.parameters_in_order = ms.ParameterTuple([by_name[spec.name] for spec in specs])
        cos, sin = rotary_tables(config, max_length)
        scale = np.float32(config.head_dim**-0.5)
        self.cos, self.sin, self.scaled_cos, self.scaled_sin = (Tensor(table) for table in (cos, sin, cos * scale, sin * scale))

    def tables(self, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotary tables of positions 0..length-1, each [length, D]."""
        return self.cos[:length], self.sin[:length], self.scaled_cos[:length], self.scaled_sin[:length]

    def tables_at(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotary tables at positions [B], each [B, 1, 1, D]."""
        batch = positions.shape[0]
        shape = (batch, 1, 1, self.config.head_dim)
        cos, sin = ops.gather(self.cos, positions, 0).reshape(shape), ops.gather(self.sin, positions, 0).reshape(shape)
        scaled_cos = ops.gather(self.scaled_cos, positions, 0).reshape(shape)
        return cos, sin, scaled_cos, ops.gather(self.scaled_sin, positions, 0).reshape(shape)

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids [tokens] int32 -> [tokens, H]."""
        return ops.gather(self.embedding, token_ids, 0)

    def hidden(self, token_ids: Tensor) -> Tensor:
        """Final-normed hidden states [B*T, H] of right-padded sequences token_ids [B, T] int32."""
        batch, length = token_ids.shape
        tables, mask = self.tables(length), causal_mask(length)
        x = self.embed(token_ids.reshape(-1))
        for layer in self.layers:
            query, key, value = layer.project(x, tables, batch, length)
            x = layer.finish(x, layer.attend_causally(query, key, value, mask))
        return rms_norm(x, self.final_norm, self.eps)

    def norm(self, x: Tensor) -> Tensor:
        """The final norm, x [tokens, H]."""
        return rms_norm(x, self.final_norm, self.eps)

    def construct(self, token_ids: Tensor) -> Tensor:
        """Logits [B, T, V] of right-padded token_ids [B, T]; for tests and small inputs: training uses `TokenLogprobs`."""
        batch, length = token_ids.shape
        return _linear(self.hidden(token_ids), self.head).reshape(batch, length, -1)

    def named_weights(self) -> dict[str, Parameter]:
        """Parameters by Hugging Face name."""
        return {parameter.name: parameter for parameter in self.parameters_in_order}

    def weights_as_numpy(self) -> dict[str, np.ndarray]:
        """A copy of all weights, float32 by name."""
        return {parameter.name: parameter.asnumpy().copy() for parameter in self.parameters_in_order}
