"""How fast a device decodes, of Qwen2.5-0.5B's shape, and what the estimate expects of that."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from mindrlhf_lite.estimate.devices import Device
from mindrlhf_lite.estimate.kernels import ASCEND
from mindrlhf_lite.estimate.work import Work

LAYERS, SLOTS, PROMPT, NEW = 24, 64, 512, 64
TOKEN, LAUNCHES = "ms a decoded token, 64 at a time", "launches a decoded token"
VIEWS = ("Reshape", "ExpandDims")  # of a graph's kernels, those that start nothing


def expected_of_decoding(device: Device) -> dict[str, float]:
    """At the 0.5B model's size: of its 494 million parameters the head reads the embedding's again."""
    launches = LAYERS * ASCEND.decode_layer + ASCEND.decode_ends
    kept = SLOTS * (PROMPT + NEW / 2) * LAYERS * 2 * 2 * 64
    work = Work(memory_bytes=2 * (494e6 + kept), launches=launches, calls=1, tokens=1)
    return {LAUNCHES: float(launches), TOKEN: 1e3 * work.seconds(device)}


def launches_of(kernels: dict[str, int]) -> int:
    """Args: kernels: of a graph, as the dry run lists them."""
    return sum(count for name, count in kernels.items() if name not in VIEWS)


def speed_of_decoding(device: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """How fast a model of Qwen2.5-0.5B's shape, of zeros, decodes in bfloat16; two layers of it where none computes."""
    import mindspore as ms

    from mindrlhf_lite.models.decoder import Decoder
    from mindrlhf_lite.models.precision import Precision
    from mindrlhf_lite.parallel.mesh import is_simulated
    from mindrlhf_lite.rollout.native import NativeEngine
    from mindrlhf_lite.shapes.model_config import ModelConfig
    from mindrlhf_lite.types import GenerateRequest, SamplingParams

    is_device = ms.get_context("device_target") == "Ascend"
    layers, slots, prompt, new = (LAYERS, SLOTS, PROMPT, NEW) if is_device and not is_simulated() else (2, 8, 64, 8)
    config, rng = ModelConfig(151936, 896, 4864, layers, 14, 2, head_dim=64), np.random.default_rng(0)
    figures: dict[str, Any] = {}
    first: np.ndarray | None = None
    for name, is_fused in (("plain operators", False), ("fused kernels", True)) if is_device else (("CPU", False),):
        precision = Precision.here("bfloat16", is_fused=is_fused)
        engine = NativeEngine(Decoder(config, None, False, prompt + new, precision=precision), slots, prompt + new)
        requests = [GenerateRequest(tuple(map(int, rng.integers(1, 1000, prompt)))) for _ in range(slots)]
        engine.generate(requests, SamplingParams(2))
        seconds = []
        for tokens in (2, new):  # the difference leaves the prefill out
            start = time.perf_counter()
            first = engine.generate(requests, SamplingParams(tokens))[0][0].engine_logprobs
            seconds.append(time.perf_counter() - start)
        taken = max(seconds[1] - seconds[0], 1e-9) / (new - 2)
        figures[f"decoded tokens a second, {layers} layers, {slots} at a time, {name}"] = round(slots / taken, 1)
        if is_fused:
            figures[TOKEN] = 1e3 * taken
        figures[f"prefilled tokens a second, {name}"] = round(slots * prompt / seconds[0], 1)
    assert first is not None
    return {"logprobs": first}, figures
