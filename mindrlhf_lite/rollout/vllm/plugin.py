"""Entry points that vLLM calls in every process that imports it; they import nothing before they are needed."""

from __future__ import annotations

import importlib.util

_PACKAGE = "mindrlhf_lite.rollout.vllm"


def platform() -> str | None:
    """`vllm.platform_plugins`: this project's platform, or None where vllm_mindspore brings the one for Ascend."""
    return None if importlib.util.find_spec("vllm_mindspore") else f"{_PACKAGE}.platform.MindSporePlatform"


def register_models() -> None:
    """`vllm.general_plugins`: descriptions of our architectures stand in for vLLM's torch models, which this platform never builds."""
    if platform() is None:
        return
    from vllm import ModelRegistry

    from mindrlhf_lite.models.model_config import ARCHITECTURES

    for architecture in ARCHITECTURES.values():
        ModelRegistry.register_model(architecture.class_name, f"{_PACKAGE}.description:DecoderDescription")
