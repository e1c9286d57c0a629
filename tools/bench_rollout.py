#!/usr/bin/env python3
"""Generated tokens a second of the rollout engines and of transformers, on one model and one set of requests, taking turns.

128 prompts of 16 to 200 tokens, up to 128 new ones each, sampled at temperature 1; a few stop tokens end completions early, about where trained models end them.
A first, untimed turn compiles. The model is random: speed does not depend on its weights.

Examples:
  OMP_NUM_THREADS=2 python tools/bench_rollout.py
  OMP_NUM_THREADS=2 python tools/bench_rollout.py --engines native,transformers --hidden 512 --layers 8
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mindrlhf_lite.cli import run_tool, tool_parser

NEW_TOKENS, STOP_TOKENS, VOCABULARY = 128, 20, 2048


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--engines", default="native,vllm,transformers", help="default: native,vllm,transformers")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size (default: 256)")
    parser.add_argument("--layers", type=int, default=4, help="default: 4")
    parser.add_argument("--prompts", type=int, default=128, help="default: 128")
    parser.add_argument("--turns", type=int, default=3, help="timed turns; the median is reported (default: 3)")
    args = parser.parse_args()
    if unknown := set(args.engines.split(",")) - {"native", "vllm", "transformers"}:
        parser.error(f"--engines {args.engines}: {', '.join(sorted(unknown))} is not native, vllm or transformers")
    for name, command in (("vllm", "bash build.sh --vllm"), ("transformers", "bash build.sh --test")):
        if name in args.engines.split(",") and importlib.util.find_spec(name) is None:
            parser.error(f"--engines {args.engines}: {name} is not installed; install it with `{command}`, or leave it out")
    return args


def main() -> None:
    args = parse_arguments()
    import mindspore as ms
    import numpy as np

    ms.set_context(mode=ms.GRAPH_MODE)
    from mindrlhf_lite.models.hf_weights import save_hf_model
    from mindrlhf_lite.models.model_config import ModelConfig
    from mindrlhf_lite.models.parameters import parameter_specs
    from mindrlhf_lite.models.qwen2 import Qwen2
    from mindrlhf_lite.rollout.protocol import RolloutEngine
    from mindrlhf_lite.types import GenerateRequest, SamplingParams

    rng = np.random.default_rng(0)
    length = 200 + NEW_TOKENS
    shape = ModelConfig(VOCABULARY, args.hidden, 3 * args.hidden, args.layers, 4, 2, max_position_embeddings=512)
    weights = {spec.name: rng.normal(0, 0.02, spec.shape).astype(np.float32) for spec in parameter_specs(shape)}
    prompts = [tuple(int(t) for t in rng.integers(STOP_TOKENS, VOCABULARY, rng.integers(16, 201))) for _ in range(args.prompts)]
    requests = [GenerateRequest(prompt, 1, (0, index)) for index, prompt in enumerate(prompts)]
    sampling = SamplingParams(NEW_TOKENS, stop_token_ids=tuple(range(STOP_TOKENS)))
    engines: dict[str, Callable[[], int]] = {}

    def count(engine: RolloutEngine) -> int:
        return sum(len(completion.token_ids) for group in engine.generate(requests, sampling) for completion in group)

    with tempfile.TemporaryDirectory() as folder:
        save_hf_model(Path(folder), shape, weights, None, None)
        for name in args.engines.split(","):
            if name == "native":
                from mindrlhf_lite.rollout.native import NativeEngine

                native = NativeEngine(Qwen2(shape, weights, False, length), args.prompts, length)
                engines[name] = partial(count, native)
            elif name == "vllm":
                from mindrlhf_lite.rollout.vllm.engine import VllmEngine, VllmOptions

                vllm = VllmEngine(Qwen2(shape, weights, False, length), folder, VllmOptions(length, args.prompts))
                engines[name] = partial(count, vllm)
            else:
                engines[name] = transformers_engine(folder, prompts)
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        tokens = {name: generate() for name, generate in engines.items()}
        for _ in range(args.turns):
            for name, generate in engines.items():
                start = time.perf_counter()
                tokens[name] = generate()
                seconds[name].append(time.perf_counter() - start)
    speed = {name: tokens[name] / statistics.median(times) for name, times in seconds.items()}
    for name in engines:
        row = {"engine": name, "tokens": tokens[name], "tokens_per_s": round(speed[name]), "spread": [round(tokens[name] / s) for s in sorted(seconds[name])]}
        if "transformers" in speed:
            row["over_transformers"] = round(speed[name] / speed["transformers"], 2)
        print(json.dumps(row))


def transformers_engine(folder: str, prompts: list) -> Callable[[], int]:
    """transformers' generate over all prompts at once, padded on the left, with its key-value cache."""
    import torch
    from transformers import Qwen2ForCausalLM

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or len(os.sched_getaffinity(0)))
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    stops = list(range(STOP_TOKENS))

    def generate() -> int:
        torch.manual_seed(0)
        with torch.no_grad():
            output = model.generate(
                ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=NEW_TOKENS, eos_token_id=stops, pad_token_id=0
            )
        total = 0
        for row in output[:, width:].tolist():
            ends = [place for place, token in enumerate(row) if token < STOP_TOKENS]
            total += ends[0] + 1 if ends else len(row)
        return total

    return generate


if __name__ == "__main__":
    run_tool(main, uses_torch=True)
