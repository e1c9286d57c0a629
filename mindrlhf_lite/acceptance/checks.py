"""What can be checked of a device in one process: `python -m mindrlhf_lite.acceptance.checks NAME DEVICE OUT.npz`; for
the check "vllm" followed by a Hugging Face folder.

A check returns arrays, which must be the same on CPU and on the device (whole numbers exactly, others up to a
tolerance), and figures, which are reported and go to OUT.json. `tools/ascend_kit.sh` runs each on both, in processes of
their own, and compares. DEVICE: CPU, Ascend, or emulated: CPU with bfloat16 by rounding where the device has bfloat16.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.acceptance.decoding import speed_of_decoding
from mindrlhf_lite.acceptance.speed import speed_of_device
from mindrlhf_lite.files.text_file import write_text

Found = tuple[dict[str, np.ndarray], dict[str, Any]]


@dataclass(frozen=True)
class KitCheck:
    """`run` takes the device. `tolerance`: of the largest difference, relative to the array's largest number; 0: bit
    for bit; None: there is nothing to compare, the device's figures are reported. Where bfloat16 is emulated on CPU, it
    differs by half of what is allowed.
    """

    run: Callable[[str], Found]
    tolerance: float | None
    says: str


def _kernels(is_fused: bool, device: str) -> Found:
    from mindrlhf_lite.acceptance.kernel_cases import compared, inputs, run
    from mindrlhf_lite.models.kernels import FUSED_KERNELS, PLAIN
    from mindrlhf_lite.models.precision import FLOAT32, Precision

    kernels, precision = PLAIN, FLOAT32
    if is_fused and device != "CPU":
        kernels, precision = FUSED_KERNELS if device == "Ascend" else PLAIN, Precision.here("bfloat16", is_fused=True)
    found, figures = {}, {}
    for name, arrays in inputs().items():
        try:
            results, gradients = run(name, arrays, kernels, precision)
        except Exception as error:  # the others are told
            figures[f"{name} failed"] = str(error).strip().partition("\n")[0][:200]
            continue
        for place, tensor in enumerate(compared(name, results, gradients)):
            found[f"{name}/{place}"] = tensor.asnumpy().astype(np.float32)
            if name == "packed_attention" and place < 2:  # what padding sees means nothing
                found[f"{name}/{place}"][1, :, 6:] = 0
    return found, figures


def _store(device: str) -> Found:
    """Contents that were let go come back bit for bit, under a graph that was compiled before; what is made anew is
    zero.
    """
    from mindspore import Parameter, ParameterTuple, Tensor, jit, nn, ops

    from mindrlhf_lite.swap.stores import HostStore

    values = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    parameter = Parameter(Tensor(values), name="kept", requires_grad=False)
    other = Parameter(Tensor(values), name="emptied", requires_grad=False)
    small = [Parameter(Tensor(values[:rows]), name=f"small_{rows}", requires_grad=False) for rows in (1, 3)]

    class Graph(nn.Cell):
        def __init__(self) -> None:
            super().__init__(auto_prefix=False)
            self.held = ParameterTuple([parameter, other])

        @jit
        def construct(self) -> tuple:
            return self.held[0] * 2.0, self.held[1] * 2.0

    store, graph = HostStore(), Graph()
    store.adopt([parameter, other, *small])
    graph()
    store.reserve([parameter])
    store.reserve(small)
    start = time.perf_counter()
    store.save([parameter, *small])
    store.release([parameter, other, *small])
    store.materialise([other])
    store.load([parameter, *small])
    seconds = time.perf_counter() - start
    doubled, zero = graph()
    ops.assign_add(other, parameter)
    again = graph()
    found = {"kept": doubled.asnumpy(), "emptied": zero.asnumpy(), "written": again[1].asnumpy()}
    found |= {each.name: each.asnumpy() for each in small}
    return found, {"seconds for 4 MiB out and in": round(seconds, 4)}


def _sampler(device: str) -> Found:
    from mindspore import Tensor, jit

    from mindrlhf_lite.rollout.graph_draw import draw_greedily, draw_tokens

    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((64, 1000)) * 3).astype(np.float32)
    logits[:, 500:] = -1e9  # masked: never drawn
    uniform = np.concatenate([[0.0, 1.0 - 2.0**-24], rng.random(62)]).astype(np.float32)

    @jit
    def both(logits: Tensor, uniform: Tensor) -> tuple:
        return (*draw_tokens(logits, logits, False, uniform)[:2], *draw_greedily(logits, logits, False)[:2])

    drawn, logprobs, best, best_logprobs = (each.asnumpy() for each in both(Tensor(logits), Tensor(uniform)))
    # the sum of probabilities up to the token and the uniform that chose it: two tokens may be as near to it
    probabilities = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(1, keepdims=True)
    outside = np.array([((drawn < 0) | (drawn >= 500)).sum()])
    reached = np.cumsum(probabilities, 1)[np.arange(64), np.clip(drawn, 0, 999)]
    found = {"reached": reached.astype(np.float32), "logprobs": logprobs, "best": best, "masked": outside}
    return {**found, "best_logprobs": best_logprobs}, {"masked tokens drawn": int(outside[0])}


def _model(compute: str, device: str) -> Found:
    """Logprobs and gradients of three packed sequences, and greedy tokens of four prompts, of a small random model."""
    from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
    from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
    from mindrlhf_lite.learner.policy_loss import Objective, PolicyLoss
    from mindrlhf_lite.learner.trained_model import TrainedModel
    from mindrlhf_lite.models.decoder import Decoder
    from mindrlhf_lite.models.precision import FLOAT32, Precision
    from mindrlhf_lite.rollout.native import NativeEngine
    from mindrlhf_lite.scoring.batches import make_microbatch
    from mindrlhf_lite.shapes.model_config import ModelConfig
    from mindrlhf_lite.shapes.parameters import parameter_specs
    from mindrlhf_lite.shapes.streams import StreamShapes
    from mindrlhf_lite.types import GenerateRequest, SamplingParams, TrainSequence

    config, rng = ModelConfig(300, 64, 128, 2, 4, 2, head_dim=16), np.random.default_rng(0)
    weights = {}
    for spec in parameter_specs(config):
        values = rng.standard_normal(spec.shape).astype(np.float32)
        weights[spec.name] = 1 + 0.1 * values if "norm" in spec.name else 0.1 * values
    precision = FLOAT32 if device == "CPU" else Precision.here(compute, is_fused=True)
    model = Decoder(config, weights, True, 64, precision=precision)
    actor = TrainedModel(model, PolicyLoss(model, Objective()), AdamW(model, AdamWOptions()))
    sequences = [
        TrainSequence.of(rng.integers(0, 300, length).astype(np.int32), 4, advantage)
        for length, advantage in ((40, 1.0), (9, -0.5), (30, 0.3))
    ]
    total = sum(each.completion_length for each in sequences)
    _, logprobs = actor.accumulate(
        [make_microbatch(sequences, StreamShapes(128, 64), token_mean, BatchTotals(total, 3, 60))]
    )
    found = {"logprobs": np.concatenate(logprobs[0])}
    for gradient in actor.optimizer.gradients:
        found[gradient.name] = gradient.asnumpy()
    engine = NativeEngine(Decoder(config, weights, False, 64, precision=precision), 8, 64)
    requests = [GenerateRequest(tuple(map(int, rng.integers(1, 300, 8)))) for _ in range(8)]
    sampling = SamplingParams(8 if compute == "bfloat16" else 40, temperature=0)
    engine.generate(requests, sampling)
    start = time.perf_counter()
    completions = engine.generate(requests, sampling)
    seconds = time.perf_counter() - start
    if compute == "float32":  # in bfloat16 near ties fall either way
        found["greedy"] = np.array([group[0].token_ids for group in completions], np.int32)
    tokens = sum(len(group[0].token_ids) for group in completions)
    return found, {"decoded tokens a second, 8 at a time, tiny model": round(tokens / seconds, 1)}


def _optimizer(device: str) -> Found:
    """Masters and gradient norms after three updates with given gradients."""
    from mindspore import Tensor, ops

    from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
    from mindrlhf_lite.models.decoder import Decoder
    from mindrlhf_lite.models.precision import Precision
    from mindrlhf_lite.shapes.model_config import ModelConfig
    from mindrlhf_lite.shapes.parameters import parameter_specs

    config, rng = ModelConfig(96, 32, 64, 1, 4, 2, head_dim=8), np.random.default_rng(0)
    weights = {spec.name: rng.standard_normal(spec.shape).astype(np.float32) for spec in parameter_specs(config)}
    model = Decoder(config, weights, True, 8, precision=Precision.here("bfloat16"))
    optimizer = AdamW(model, AdamWOptions(weight_decay=0.1))
    optimizer.load_weights(weights)
    norms = []
    for _ in range(3):
        for gradient in optimizer.gradients:
            ops.assign(gradient, Tensor(rng.standard_normal(gradient.shape).astype(np.float32)))
        norms.append(optimizer.step(1e-2))
    found = {f"master {name}": values.copy() for name, values in optimizer.master_weights().items()}
    return {**found, "norms": np.array(norms, np.float32)}, {}


def _vllm(model: str, device: str) -> Found:
    """The logprobs that vLLM reports for what it draws greedily, and what the native engine's model gives the same
    tokens; with the weights that it loaded, and with others that are handed on in memory.
    """
    import mindspore as ms
    from mindspore import Tensor, ops

    from mindrlhf_lite.inference.model_folder import load_model_folder, score_sequences
    from mindrlhf_lite.models.decoder import Decoder
    from mindrlhf_lite.models.precision import FLOAT32, Precision
    from mindrlhf_lite.types import GenerateRequest, SamplingParams, TrainSequence

    is_device, folder, length = ms.get_context("device_target") == "Ascend", load_model_folder(model), 64
    precision = Precision.here("bfloat16") if is_device else FLOAT32
    own = Decoder(folder.config, folder.weights, False, length, precision=precision)
    engine: Any
    if is_device:
        from mindrlhf_lite.parallel.mesh import ALONE
        from mindrlhf_lite.rollout.vllm.ascend import AscendVllmEngine

        limits = {"max_model_len": length, "max_num_seqs": 8, "max_num_batched_tokens": 512, "block_size": 16}
        engine = AscendVllmEngine(own, own.buffers, ALONE, model, {**limits, "gpu_memory_utilization": 0.3})
    else:
        from mindrlhf_lite.rollout.vllm.engine import VllmEngine, VllmOptions

        engine = VllmEngine(own, model, VllmOptions(length, 8, 512, 16, 0))
    rng = np.random.default_rng(0)
    requests = [GenerateRequest(tuple(map(int, rng.integers(1, folder.config.vocab_size, 8)))) for _ in range(8)]
    reported, scored = [], []
    for turn in range(2):
        if turn:  # weights that no file has
            for name, values in folder.weights.items():
                moved = values * (1 + 0.2 * rng.standard_normal(values.shape)).astype(np.float32)
                folder.weights[name] = own.precision.rounded(moved).astype(np.float32)
                ops.assign(own.named_weights()[name], Tensor(folder.weights[name], own.precision.storage))
        engine.weights_changed()
        completions = [group[0] for group in engine.generate(requests, SamplingParams(16, temperature=0))]
        sequences = [
            TrainSequence.of(np.array([*request.prompt_ids, *completion.token_ids], np.int32), 8)
            for request, completion in zip(requests, completions, strict=True)
        ]
        scored += score_sequences(sequences, folder, 8)
        reported += [each.engine_logprobs for each in completions if each.engine_logprobs is not None]
    apart = np.abs(np.concatenate(reported) - np.concatenate(scored))
    figures = {"logprobs apart, largest": round(float(apart.max()), 4), "mean": round(float(apart.mean()), 5)}
    is_far = float(apart.mean()) > (0.05 if is_device else 1e-3)
    return {"far": np.array([int(is_far)])}, figures


CHECKS = {
    "plain_kernels": KitCheck(partial(_kernels, False), 2e-3, "plain operators of a layer, and backward, float32"),
    "fused_kernels": KitCheck(partial(_kernels, True), 5e-2, "fused kernels in bfloat16 against plain ones in float32"),
    "store": KitCheck(_store, 0.0, "parameters let go and taken anew under a compiled graph"),
    "sampler": KitCheck(_sampler, 2e-3, "drawing tokens: the sum of probabilities that is reached, and greedily"),
    "model_float32": KitCheck(partial(_model, "float32"), 5e-3, "logprobs, gradients and greedy tokens, float32"),
    "model_bfloat16": KitCheck(partial(_model, "bfloat16"), 6e-2, "logprobs and gradients, bfloat16, fused kernels"),
    "optimizer": KitCheck(_optimizer, 1e-5, "AdamW: float32 masters of a bfloat16 model, norms of the gradients"),
    "speed": KitCheck(speed_of_device, None, "launches, copies to and from the host, matrix products"),
    "decoding": KitCheck(speed_of_decoding, None, "decoding at the size of Qwen2.5-0.5B, bfloat16"),
}


def main() -> None:
    import mindspore as ms

    name, device, out, *model = sys.argv[1:]
    ms.set_context(device_target="Ascend" if device == "Ascend" else "CPU", mode=ms.GRAPH_MODE, max_call_depth=10_000)
    arrays, figures = _vllm(model[0], device) if name == "vllm" else CHECKS[name].run(device)
    np.savez(out, **arrays)
    write_text(Path(out).with_suffix(".json"), json.dumps(figures))


if __name__ == "__main__":
    main()
