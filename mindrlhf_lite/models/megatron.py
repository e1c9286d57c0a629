"""A model's shape in the names of Megatron, as MindSpeed-RL's model files have it."""

from __future__ import annotations

from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.shapes.model_config import ModelConfig

_KEYS = {
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_attention_heads": "num_attention_heads",
    "head_dim": "kv_channels",
    "rope_theta": "rotary_base",
    "rms_norm_eps": "norm_epsilon",
    "vocab_size": "padded_vocab_size",
    "max_position_embeddings": "max_position_embeddings",
}
_DEFAULTS = {"rms_norm_eps": 1e-5, "rope_theta": 10000.0}


def is_megatron(values: Any) -> bool:
    """Whether a file's content is one mapping below the model's name, with Megatron's keys."""
    return (
        isinstance(values, dict)
        and len(values) == 1
        and isinstance(next(iter(values.values())), dict)
        and "ffn_hidden_size" in next(iter(values.values()))
    )


def shape_from_megatron(values: dict[str, Any], source: str) -> ModelConfig:
    """Args: values: below the model's name.

    Raises:
        ValueError: experts, or a key is missing.
    """
    if values.get("num_experts"):
        raise UserError(f"{source}: num_experts={values['num_experts']}: models have no experts here")
    kind = "qwen3" if values.get("qk_layernorm") else "qwen2" if values.get("add_qkv_bias") else "llama"
    found: dict[str, Any] = {"model_type": kind, **_DEFAULTS}
    found.update({ours: values[theirs] for ours, theirs in _KEYS.items() if values.get(theirs) is not None})
    found["tie_word_embeddings"] = not values.get("untie_embeddings_and_output_weights", False)
    groups = values.get("num_query_groups") if values.get("group_query_attention") else None
    found["num_key_value_heads"] = groups or found.get("num_attention_heads")
    try:
        return ModelConfig.from_hf(found, "as a config.json")
    except (ValueError, TypeError) as error:
        raise UserError(f"{source}: {error}") from None
