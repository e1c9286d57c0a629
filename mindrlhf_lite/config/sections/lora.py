"""actor_config.lora: adapters that are trained in the place of the model's weights. Names are peft's."""

from __future__ import annotations

from dataclasses import dataclass

from mindrlhf_lite.config.setting import FREE, NOT_NEGATIVE, POSITIVE, setting
from mindrlhf_lite.shapes.adapters import ALL_LINEAR


@dataclass(frozen=True)
class LoraConfig:
    rank: int = setting(
        0,
        "train low-rank adapters of this rank, and freeze all weights; 0: all weights are trained",
        bounds=NOT_NEGATIVE,
    )
    alpha: float = setting(16.0, "adapters are multiplied by alpha / rank", bounds=POSITIVE)
    target_modules: list[str] = setting(
        [ALL_LINEAR],
        "linears that have adapters, such as q_proj; all-linear: those of attention and MLP, not embedding and head",
    )
    rslora: bool = setting(False, "multiply by alpha / sqrt(rank) in the place of alpha / rank")
    init: str = setting(
        "default",
        "how A starts, beside a B of zeros: peft's default (Kaiming uniform) or gaussian",
        ("default", "gaussian"),
    )
    dropout: float = setting(0.0, "peft's lora_dropout: must be 0")
    modules_to_save: list[str] = setting([], "peft's modules that are trained whole: must be empty")
    load: str = setting(
        "",
        "folder of adapters to start from (adapter_config.json, adapter_model.safetensors); empty: new ones",
        resume=FREE,
    )
    rollout: str = setting(
        "auto",
        "separate: the rollout computes adapters beside the weights that it shares; merge: in a copy of the weights, "
        "merged anew after every update; auto: merge for vLLM, else separate",
        ("auto", "separate", "merge"),
    )
