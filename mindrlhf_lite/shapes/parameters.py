"""The one table of a model's parameters: name, shape, how it is split, whether weight decay applies.

The checkpoint reader checks against it, the optimizer masks weight decay by it, and `parallel.layout` reads from it
which part of which parameter a rank holds. Names and shapes are Hugging Face's ([out, in] for linears).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mindrlhf_lite.shapes.model_config import ModelConfig


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter.

    Example: ParameterSpec("model.layers.0.self_attn.k_proj.weight", (128, 896), tensor_dim=0, layer=0, decays=True,
    units=2)
    """

    name: str
    shape: tuple[int, ...]
    tensor_dim: int | None  # the dimension that the tensor axis of the mesh splits; None: every rank holds the whole
    layer: int | None  # decoder layer, which the pipeline axis places; None: embedding, final norm, head
    decays: bool  # whether weight decay applies (never to norms and biases)
    # indivisible parts of tensor_dim (heads, columns), replicated over tensor ranks that outnumber them; 0: rows of a
    # vocabulary, padded to divide
    units: int = 0


def parameter_specs(config: ModelConfig) -> list[ParameterSpec]:
    """All parameters of `config`'s decoder, in forward order."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key_value = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    specs = [ParameterSpec("model.embed_tokens.weight", (config.vocab_size, hidden), 0, None, True)]
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        rows: list[tuple[str, tuple[int, ...], int | None, int]] = [
            ("input_layernorm.weight", (hidden,), None, 1),
            ("self_attn.q_proj.weight", (query, hidden), 0, heads),
            ("self_attn.q_proj.bias", (query,), 0, heads),
            ("self_attn.k_proj.weight", (key_value, hidden), 0, kv_heads),
            ("self_attn.k_proj.bias", (key_value,), 0, kv_heads),
            ("self_attn.v_proj.weight", (key_value, hidden), 0, kv_heads),
            ("self_attn.v_proj.bias", (key_value,), 0, kv_heads),
            ("self_attn.o_proj.weight", (hidden, query), 1, heads),
            ("post_attention_layernorm.weight", (hidden,), None, 1),
            ("mlp.gate_proj.weight", (inner, hidden), 0, inner),
            ("mlp.up_proj.weight", (inner, hidden), 0, inner),
            ("mlp.down_proj.weight", (hidden, inner), 1, inner),
        ]
        if config.architecture.has_qk_norm:
            rows[4:4] = [
                ("self_attn.q_norm.weight", (config.head_dim,), None, 1),
                ("self_attn.k_norm.weight", (config.head_dim,), None, 1),
            ]
        if not config.architecture.has_qkv_bias:
            rows = [row for row in rows if not row[0].endswith(".bias")]
        specs += [
            ParameterSpec(prefix + name, shape, dim, layer, len(shape) > 1, units) for name, shape, dim, units in rows
        ]
    specs.append(ParameterSpec("model.norm.weight", (hidden,), None, None, False))
    if not config.tie_word_embeddings:
        specs.append(ParameterSpec("lm_head.weight", (config.vocab_size, hidden), 0, None, True))
    return specs


def count_parameters(config: ModelConfig) -> int:
    """Number of weights, tied ones once."""
    total = 0
    for spec in parameter_specs(config):
        size = 1
        for extent in spec.shape:
            size *= extent
        total += size
    return total


def initial_weights(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Random float32 weights: matrices from N(0, 0.02), norms 1, biases 0; a function of (config, seed)."""
    rng = np.random.default_rng(seed)
    weights = {}
    for spec in parameter_specs(config):
        if spec.decays:
            weights[spec.name] = rng.standard_normal(spec.shape, np.float32) * np.float32(0.02)
        else:
            weights[spec.name] = np.full(spec.shape, 0.0 if spec.name.endswith("bias") else 1.0, np.float32)
    return weights
