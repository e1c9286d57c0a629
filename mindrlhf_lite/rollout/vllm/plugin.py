"""Entry points that vLLM calls in every process that imports it; they import nothing before they are needed."""

from __future__ import annotations

import importlib.util
import os

_PACKAGE = "mindrlhf_lite.rollout.vllm"


def platform() -> str | None:
    """`vllm.platform_plugins`: this project's platform, or None where vllm_mindspore brings the one for Ascend."""
    if importlib.util.find_spec("vllm_mindspore"):
        return None
    # an engine in a process of its own is reported as dead when the program ends
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return f"{_PACKAGE}.platform.MindSporePlatform"


def register_models() -> None:
    """`vllm.general_plugins`: descriptions of our architectures stand in for vLLM's torch models, which this platform
    never builds.
    """
    if platform() is None:
        return
    from vllm import ModelRegistry

    from mindrlhf_lite.shapes.model_config import ARCHITECTURES

    for architecture in ARCHITECTURES.values():
        ModelRegistry.register_model(architecture.class_name, f"{_PACKAGE}.description:DecoderDescription")
