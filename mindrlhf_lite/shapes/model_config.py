"""The shape of a decoder, read from and written as a Hugging Face config.json.

What sets the architectures apart is data here (`ARCHITECTURES`, `RopeScaling`). What no supported checkpoint uses
(sliding windows, other rope scalings) is refused by name.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mindrlhf_lite.errors import UserError, short_repr
from mindrlhf_lite.files.json_file import read_json
from mindrlhf_lite.shapes.adapters import Adapters
from mindrlhf_lite.shapes.token_ids import check_token_ids


@dataclass(frozen=True)
class Architecture:
    """What a model_type has that others do not."""

    class_name: str  # transformers' and vLLM's
    has_qkv_bias: bool = False
    has_qk_norm: bool = False  # RMSNorm over each head's query and key
    models: str = ""
    attention: str = "grouped_query"  # of every layer, as `mlp`: keys of shapes.layer_blocks.BLOCKS
    mlp: str = "gated"


ARCHITECTURES = {
    "qwen2": Architecture("Qwen2ForCausalLM", has_qkv_bias=True, models="Qwen2, Qwen2.5"),
    "qwen3": Architecture("Qwen3ForCausalLM", has_qk_norm=True, models="Qwen3 dense"),
    "llama": Architecture("LlamaForCausalLM", models="Llama 3, 3.1, 3.2"),
}


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's: long wavelengths are stretched by `factor`, short ones kept, those between blended. Names are
    Hugging Face's.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


# beyond these a file is damaged or hostile: the parameter table alone would fill the memory
_LIMITS = {
    "vocab_size": 1 << 26,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 22,
    "num_hidden_layers": 10_000,
    "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14,
    "head_dim": 1 << 14,
    "max_position_embeddings": 1 << 30,
}


@dataclass(frozen=True)
class ModelConfig:
    """Names are Hugging Face's. `head_dim` 0 means hidden_size / num_attention_heads."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int = 0
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = True
    model_type: str = "qwen2"
    rope_scaling: RopeScaling | None = None
    adapters: Adapters | None = None  # in no config.json
    has_score: bool = False  # its head gives a token one number, in the place of logits; then nothing is tied

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.model_type]

    @property
    def base(self) -> ModelConfig:
        """Without adapters."""
        return replace(self, adapters=None)

    @property
    def moved(self) -> ModelConfig:
        """What of the model is trained, moved between roles and saved: where it has adapters, those alone."""
        return replace(self, adapters=replace(self.adapters, is_alone=True)) if self.adapters else self

    @property
    def scoring(self) -> ModelConfig:
        """The same decoder with a score head."""
        return replace(self, has_score=True, tie_word_embeddings=False)

    def blocks_of(self, layer: int) -> tuple[str, str]:
        """The kinds of attention and MLP of a decoder layer: keys of shapes.layer_blocks.BLOCKS."""
        return self.architecture.attention, self.architecture.mlp

    def __post_init__(self) -> None:
        for name, most in _LIMITS.items():
            if getattr(self, name) > most:
                raise UserError(f"{name}={getattr(self, name)}: no model has more than {most}")
        for name in ("rms_norm_eps", "rope_theta"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UserError(f"{name}={getattr(self, name)}: a positive number is needed")
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be positive")
        if self.head_dim < 0:
            raise UserError(f"head_dim={self.head_dim}: must be positive")
        if self.num_attention_heads < 1 or self.num_key_value_heads < 1:
            raise UserError(
                f"num_attention_heads={self.num_attention_heads}, "
                f"num_key_value_heads={self.num_key_value_heads}: must be positive"
            )
        if not self.head_dim:
            if self.hidden_size % self.num_attention_heads:
                raise UserError(
                    f"hidden_size={self.hidden_size} is not a multiple of "
                    f"num_attention_heads={self.num_attention_heads}; give head_dim"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise UserError(f"head_dim={self.head_dim}: rotary embedding needs an even number")

    @classmethod
    def from_hf(cls, values: dict[str, Any], source: str = "config.json") -> ModelConfig:
        """Args: values: a parsed config.json; source: named in errors.

        Raises:
            ValueError: an architecture or a feature that this decoder does not have, or a missing key.
        """
        model_type = values.get("model_type")
        if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
            supported = ", ".join(f"{name!r} ({architecture.models})" for name, architecture in ARCHITECTURES.items())
            raise UserError(f"{source}: model_type={short_repr(model_type)} is not supported; supported: {supported}")
        for key, only in (
            ("hidden_act", "silu"),
            ("use_sliding_window", False),
            ("attention_bias", False),
            ("mlp_bias", False),
        ):
            if (values.get(key) or only) != only:
                raise UserError(f"{source}: {key}={short_repr(values[key])} is not supported; {only!r} is")
        has_score = _has_score(values, source)
        rope = values.get("rope_parameters") or values.get("rope_scaling")
        required = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        for key in ("head_dim", "num_key_value_heads"):
            if values.get(key) == 0:
                raise UserError(f"{source}: {key}=0: must be positive, or left out")
        if not isinstance(values.get("tie_word_embeddings"), bool | None):
            tied = short_repr(values["tie_word_embeddings"])
            raise UserError(f"{source}: tie_word_embeddings={tied}: true or false is needed")
        check_token_ids(values, source)
        if missing := [key for key in required if key not in values]:
            raise UserError(f"{source}: missing {', '.join(missing)}")
        if rope is not None and not isinstance(rope, dict):
            raise UserError(f"{source}: rope_scaling={short_repr(rope)}: settings by name are needed")
        try:
            return cls(
                **{key: int(values[key]) for key in required},
                num_key_value_heads=int(values.get("num_key_value_heads") or values["num_attention_heads"]),
                head_dim=int(values.get("head_dim") or 0),
                rms_norm_eps=float(values.get("rms_norm_eps", 1e-6)),
                rope_theta=float((rope or {}).get("rope_theta") or values.get("rope_theta", 1e4)),
                max_position_embeddings=int(values.get("max_position_embeddings", 32768)),
                tie_word_embeddings=bool(values.get("tie_word_embeddings", False)) and not has_score,
                model_type=model_type,
                rope_scaling=_rope_scaling(rope or {}, source),
                adapters=None,
                has_score=has_score,
            )
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{source}: a number is none ({error})") from None

    @classmethod
    def from_dir(cls, model_dir: str | Path) -> ModelConfig:
        """Reads MODEL_DIR/config.json."""
        path = Path(model_dir) / "config.json"
        if not path.is_file():
            raise UserError(
                f"{model_dir}: no config.json there; give a Hugging Face model folder (config.json, "
                "*.safetensors, tokenizer files)"
            )
        return cls.from_hf(read_json(path), str(path))

    def to_hf(self, eos_token_id: int | list[int] | None, pad_token_id: int | None) -> dict[str, Any]:
        """A config.json that transformers and vLLM load. A pad token that only the tokenizer has, with an id beyond the
        embedding, is left out: transformers would refuse the folder.
        """
        if pad_token_id is not None and pad_token_id >= self.vocab_size:
            pad_token_id = None
        values = asdict(self.base)
        del values["adapters"], values["has_score"]
        values["rope_scaling"] = {"rope_type": "llama3", **asdict(self.rope_scaling)} if self.rope_scaling else None
        values.update(
            architectures=[self.architecture.class_name.replace(_LANGUAGE, _SCORES if self.has_score else _LANGUAGE)],
            **({"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}} if self.has_score else {}),
            hidden_act="silu",
            attention_dropout=0.0,
            **({"attention_bias": False} if self.model_type != "qwen2" else {"use_sliding_window": False}),
            torch_dtype="float32",
            initializer_range=0.02,
            use_cache=True,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
        )
        return values


_LANGUAGE, _SCORES = "ForCausalLM", "ForSequenceClassification"


def _has_score(values: dict[str, Any], source: str) -> bool:
    """Whether a config.json is of a model that scores. Raises UserError where it gives more numbers than one."""
    classes = values.get("architectures")
    if not isinstance(classes, list) or not any(str(name).endswith(_SCORES) for name in classes):
        return False
    labels = values.get("id2label")
    count = len(labels) if isinstance(labels, dict) else values.get("num_labels", 2)  # transformers' default
    if count != 1:
        raise UserError(f"{source}: {classes[0]} with {count} labels; a model that gives one number is supported")
    return True


def _rope_scaling(rope: dict[str, Any], source: str) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise UserError(f"{source}: rope scaling {short_repr(rope)} is not supported; 'llama3' is")
    names = [field.name for field in fields(RopeScaling)]
    if missing := [name for name in names if name not in rope]:
        raise UserError(f"{source}: rope_scaling lacks {', '.join(missing)}")
    factor, low, high = (float(rope[name]) for name in names[:3])
    return RopeScaling(factor, low, high, int(rope[names[3]]))
