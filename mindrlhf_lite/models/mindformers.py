"""MindFormers' LlamaForCausalLM, the class that Qwen2, Qwen2.5 and Llama have there: names of its tensors, keys of its
YAML.

Written against MindFormers 1.9.0 (models/llama); nothing of it is imported.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.shapes.model_config import ModelConfig

_PARTS = {
    "model.embed_tokens.weight": "model.tok_embeddings.embedding_weight",
    "model.norm.weight": "model.norm_out.weight",
    ".self_attn.q_proj.": ".attention.wq.",
    ".self_attn.k_proj.": ".attention.wk.",
    ".self_attn.v_proj.": ".attention.wv.",
    ".self_attn.o_proj.": ".attention.wo.",
    ".mlp.gate_proj.": ".feed_forward.w1.",
    ".mlp.down_proj.": ".feed_forward.w2.",
    ".mlp.up_proj.": ".feed_forward.w3.",
    ".input_layernorm.": ".attention_norm.",
    ".post_attention_layernorm.": ".ffn_norm.",
}
# what MindFormers' training adds to a checkpoint
_STATE_PREFIXES = ("adam_m.", "adam_v.", "accu_grads.", "cache.")
_STATE_NAMES = {
    *(
        "epoch_num",
        "step_num",
        "global_step",
        "global_batch_size",
        "loss_scale",
        "scale_sense",
        "scale_window",
        "learning_rate",
        "beta1_power",
        "beta2_power",
    ),
    *("current_iterator_step", "last_overflow_iterator_step", "random_op", "network", "param_group_0.lr", "state_step"),
}

# keys of LlamaConfig by the key of config.json; the first that is there counts
_KEYS: dict[str, tuple[str, ...]] = {
    "vocab_size": ("vocab_size",),
    "hidden_size": ("hidden_size",),
    "intermediate_size": ("intermediate_size",),
    "num_hidden_layers": ("num_layers", "num_hidden_layers"),
    "num_attention_heads": ("num_heads", "num_attention_heads"),
    "num_key_value_heads": ("n_kv_heads", "num_key_value_heads"),
    "rms_norm_eps": ("rms_norm_eps",),
    "rope_theta": ("theta", "rope_theta"),
    "max_position_embeddings": ("max_position_embedding", "max_position_embeddings", "seq_length"),
    "tie_word_embeddings": ("tie_word_embeddings",),
}
_DEFAULTS = {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False}


def mindformers_name(name: str) -> str:
    """Example: mindformers_name("model.layers.0.mlp.up_proj.weight") == "model.layers.0.feed_forward.w3.weight" """
    for ours, theirs in _PARTS.items():
        name = name.replace(ours, theirs)
    return name


def is_training_state(name: str) -> bool:
    """Whether a tensor of a checkpoint belongs to the optimizer or the loop rather than to the model."""
    return name in _STATE_NAMES or name.startswith(_STATE_PREFIXES)


def mindformers_problem(config: ModelConfig) -> str | None:
    """Why LlamaForCausalLM cannot hold a model; None if it can."""
    if config.architecture.has_qk_norm:
        return f"MindFormers' LlamaForCausalLM has no norms of query and key, which {config.architecture.models} needs"
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        return f"MindFormers' LlamaForCausalLM has heads of hidden_size / num_heads, not head_dim={config.head_dim}"
    return None


def shape_from_mindformers(values: dict[str, Any], source: str) -> ModelConfig:
    """A model's shape from `model.model_config` of a MindFormers YAML.

    Raises:
        ValueError: another class, a feature that this decoder does not have, or a missing key.
    """
    if values.get("type", "LlamaConfig") != "LlamaConfig":
        raise UserError(
            f"{source}: model.model_config.type={values['type']!r} is not supported; 'LlamaConfig' is (Qwen2, "
            "Qwen2.5, Llama 3)"
        )
    if values.get("qkv_concat"):
        raise UserError(
            f"{source}: model.model_config.qkv_concat=True is not supported: tensors are split here. Set it to "
            "False: a run starts from a Hugging Face folder, whose tensors are"
        )
    for name in sum(_KEYS.values(), ("multiple_of", "ffn_dim_multiplier")):
        if values.get(name) is not None and not _is_positive(values[name]) and name != "tie_word_embeddings":
            raise UserError(f"{source}: model.model_config.{name}={values[name]!r}: a positive number is needed")
    config: dict[str, Any] = {"model_type": "qwen2" if values.get("qkv_has_bias") else "llama", **_DEFAULTS}
    for key, names in _KEYS.items():
        given = next((values[name] for name in names if values.get(name) is not None), None)
        if given is not None:
            config[key] = given
    if "intermediate_size" not in config and "hidden_size" in config:
        config["intermediate_size"] = _intermediate_size(values)
    method = str(values.get("extend_method", "None")).upper()
    if method == "LLAMA3":
        if not isinstance(values.get("scaling_factor"), dict):
            raise UserError(
                f"{source}: model.model_config.scaling_factor={values.get('scaling_factor')!r}: a mapping is "
                "needed with extend_method: LLAMA3"
            )
        config["rope_scaling"] = {"rope_type": "llama3", **values["scaling_factor"]}
    elif method != "NONE":
        raise UserError(
            f"{source}: model.model_config.extend_method={values['extend_method']!r} is not supported; 'None' "
            "and 'LLAMA3' are"
        )
    try:
        return ModelConfig.from_hf(config, "as a config.json")
    except (ValueError, TypeError) as error:
        raise UserError(f"{source}: model.model_config: {error}") from None


def mindformers_settings(config: ModelConfig) -> dict[str, Any]:
    """`model.model_config` of a MindFormers YAML for a model; the inverse of `shape_from_mindformers`."""
    values = config.to_hf(None, None)
    settings = {
        "type": "LlamaConfig",
        **{names[0]: values[key] for key, names in _KEYS.items()},
        "qkv_has_bias": config.architecture.has_qkv_bias,
    }
    if config.rope_scaling is not None:
        settings.update(extend_method="LLAMA3", scaling_factor=asdict(config.rope_scaling))
    return settings


def _is_positive(value: Any) -> bool:
    try:
        return float(value) > 0  # YAML reads 1e-6 as text
    except (TypeError, ValueError):
        return False


def _intermediate_size(values: dict[str, Any]) -> int:
    """LlamaConfig's rule where it names none: two thirds of 4 x hidden_size, times a multiplier, rounded up."""
    size = 4 * values["hidden_size"]
    if values.get("ffn_dim_multiplier") is not None:
        size = int((values["ffn_dim_multiplier"] + 0.01) * size)
    size, multiple = int(2 * size / 3), values.get("multiple_of", 256)
    return multiple * -(-size // multiple)


def _section(values: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    found = values.get(name) or {}
    if not isinstance(found, dict):
        raise UserError(f"{source}: {name}={found!r}: a mapping is needed")
    return found


def strategies_from_mindformers(values: dict[str, Any], source: str) -> dict[int, dict[str, Any]]:
    """What a YAML's parallel_config and recompute_config propose for the actor, by the number of devices that they
    need.

    Raises:
        ValueError: a section is no mapping, or a degree no positive whole number.
    """
    parallel = _section(values, "parallel_config", source)
    degrees = {key: parallel.get(key, 1) for key in ("data_parallel", "model_parallel", "pipeline_stage")}
    if strange := [key for key, degree in degrees.items() if not isinstance(degree, int) or degree < 1]:
        raise UserError(
            f"{source}: parallel_config.{strange[0]}={degrees[strange[0]]!r}: a positive whole number is needed"
        )
    settings: dict[str, Any] = {f"actor_config.parallel_config.{key}": degree for key, degree in degrees.items()}
    for key in ("use_seq_parallel", "micro_batch_num", "vocab_emb_dp"):
        if key in parallel:
            settings[f"actor_config.parallel_config.{key}"] = parallel[key]
    recompute = _section(values, "recompute_config", source).get("recompute")
    if recompute is not None:
        settings["actor_config.recompute_config.recompute"] = bool(recompute)
    sharded = _section(values, "parallel", source).get("enable_parallel_optimizer")
    if sharded is not None:
        settings["actor_config.enable_parallel_optimizer"] = bool(sharded)
    return (
        {degrees["data_parallel"] * degrees["model_parallel"] * degrees["pipeline_stage"]: settings} if parallel else {}
    )
