#!/usr/bin/env python3
"""Generated tokens a second of the rollout engines and of transformers, on one model and one set of requests, each in a
process of its own, taking turns.

128 prompts of 16 to 200 tokens, up to 128 new ones each, sampled at temperature 1; a few stop tokens end completions
early, about where trained models end them. A first, untimed turn compiles. The model is random, or that of --model:
speed does not depend on its weights. The C library is told to keep freed memory: left to itself it gives large blocks
back and fetches them again at every step, which now and then halves transformers' speed.

Examples:
  OMP_NUM_THREADS=2 python tools/bench_rollout.py
  OMP_NUM_THREADS=2 python tools/bench_rollout.py --engines native,transformers --hidden 512 --layers 8
  OMP_NUM_THREADS=2 python tools/bench_rollout.py --engines native,transformers --model smollm2 --prompts 64 --turns 2
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mindrlhf_lite.commands.tool import COUNT, run_tool, tool_parser
from mindrlhf_lite.errors import UserError

NEW_TOKENS, STOP_TOKENS, VOCABULARY = 128, 20, 2048
KEEP_MEMORY = {
    "MALLOC_TOP_PAD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
}


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--engines", default="native,vllm,transformers", help="default: native,vllm,transformers")
    parser.add_argument("--model", help="Hugging Face folder; default: a random model of --hidden and --layers")
    parser.add_argument("--hidden", type=COUNT, default=256, help="hidden size (default: 256)")
    parser.add_argument("--layers", type=COUNT, default=4, help="default: 4")
    parser.add_argument("--prompts", type=COUNT, default=128, help="default: 128")
    parser.add_argument("--turns", type=COUNT, default=5, help="timed turns; the median is reported (default: 5)")
    parser.add_argument(
        "--serve", help=argparse.SUPPRESS
    )  # a folder: be the one engine of --engines, generate once for every line of standard input
    args = parser.parse_args()
    if unknown := set(args.engines.split(",")) - {"native", "vllm", "transformers"}:
        parser.error(f"--engines {args.engines}: {', '.join(sorted(unknown))} is not native, vllm or transformers")
    for name, command in (("vllm", "bash build.sh --vllm"), ("transformers", "bash build.sh --test")):
        if name in args.engines.split(",") and importlib.util.find_spec(name) is None:
            parser.error(
                f"--engines {args.engines}: {name} is not installed; install it with `{command}`, or leave it out"
            )
    return args


def make_prompts(count: int, vocabulary: int) -> list[tuple[int, ...]]:
    import numpy as np

    rng = np.random.default_rng(0)
    return [tuple(int(t) for t in rng.integers(STOP_TOKENS, vocabulary, rng.integers(16, 201))) for _ in range(count)]


def save_random_model(folder: str, hidden: int, layers: int) -> None:
    import numpy as np

    from mindrlhf_lite.models.hf_weights import save_hf_model
    from mindrlhf_lite.shapes.model_config import ModelConfig
    from mindrlhf_lite.shapes.parameters import parameter_specs

    shape = ModelConfig(VOCABULARY, hidden, 3 * hidden, layers, 4, 2, max_position_embeddings=512)
    rng = np.random.default_rng(0)
    weights = {spec.name: rng.normal(0, 0.02, spec.shape).astype(np.float32) for spec in parameter_specs(shape)}
    save_hf_model(Path(folder), shape, weights, None, None)


def main() -> None:
    args = parse_arguments()
    if args.serve:
        serve(args.engines, args.serve, args.prompts)
        return
    names = args.engines.split(",")
    tokens: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = args.model or scratch
        if not args.model:
            save_random_model(folder, args.hidden, args.layers)
        children = {}
        for name in names:
            command = [sys.executable, __file__, "--engines", name, "--prompts", str(args.prompts), "--serve", folder]
            children[name] = stack.enter_context(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    encoding="utf-8",
                    env={**os.environ, **KEEP_MEMORY},
                )
            )
        for turn in range(args.turns + 1):  # the first one compiles
            for name, child in children.items():
                assert child.stdin and child.stdout
                with suppress(BrokenPipeError):
                    print("go", file=child.stdin, flush=True)
                if not (line := child.stdout.readline()):
                    raise UserError(
                        f"the {name} engine ended early; see `{sys.executable} {__file__} --engines {name} "
                        "--serve FOLDER <<< go`"
                    )
                tokens[name], taken = json.loads(line)
                if turn:
                    seconds[name].append(taken)
    speed = {name: tokens[name] / statistics.median(times) for name, times in seconds.items()}
    for name in names:
        row = {
            "engine": name,
            "tokens": tokens[name],
            "tokens_per_s": round(speed[name]),
            "turns": [round(tokens[name] / s) for s in seconds[name]],
        }
        if "transformers" in speed:
            row["over_transformers"] = round(speed[name] / speed["transformers"], 2)
        print(json.dumps(row))


def serve(name: str, folder: str, num_prompts: int) -> None:
    """Answers every line of standard input with [tokens, seconds] of one round of all prompts."""
    from mindrlhf_lite.config.model_file import read_model_file

    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    prompts = make_prompts(num_prompts, read_model_file(folder).shape.vocab_size)
    generate = transformers_engine(folder, prompts) if name == "transformers" else own_engine(name, folder, prompts)
    for _ in sys.stdin:
        start = time.perf_counter()
        count = generate()
        print(json.dumps([count, time.perf_counter() - start]), file=answers, flush=True)


def own_engine(name: str, folder: str, prompts: list) -> Callable[[], int]:
    """The native engine, or vLLM on MindSpore."""
    from mindrlhf_lite.models.decoder import Decoder
    from mindrlhf_lite.models.hf_weights import load_weights
    from mindrlhf_lite.models.precision import Precision
    from mindrlhf_lite.native.library import set_up
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.rollout.protocol import RolloutEngine
    from mindrlhf_lite.shapes.model_config import ModelConfig
    from mindrlhf_lite.types import GenerateRequest, SamplingParams

    Mesh()  # MindSpore's context, as in training
    shape, length = ModelConfig.from_dir(folder), 200 + NEW_TOKENS
    set_up()
    precision = Precision.here("float32", is_native=name == "native")
    model = Decoder(shape, load_weights(folder, shape), False, length, precision=precision)
    engine: RolloutEngine
    if name == "native":
        from mindrlhf_lite.rollout.native import NativeEngine

        engine = NativeEngine(model, len(prompts), length)
    else:
        from mindrlhf_lite.rollout.vllm.engine import VllmEngine, VllmOptions

        engine = VllmEngine(model, folder, VllmOptions(length, len(prompts)))
    requests = [GenerateRequest(prompt, 1, (0, index)) for index, prompt in enumerate(prompts)]
    sampling = SamplingParams(NEW_TOKENS, stop_token_ids=tuple(range(STOP_TOKENS)))
    return lambda: sum(
        len(completion.token_ids) for group in engine.generate(requests, sampling) for completion in group
    )


def transformers_engine(folder: str, prompts: list) -> Callable[[], int]:
    """transformers' generate over all prompts at once, padded on the left, with its key-value cache."""
    import torch
    from transformers import AutoModelForCausalLM

    from mindrlhf_lite.rollout.host_draw import allowed_threads

    torch.set_num_threads(allowed_threads() or len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    ).eval()
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    stops = list(range(STOP_TOKENS))

    def generate() -> int:
        torch.manual_seed(0)
        with torch.no_grad():
            output = model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                max_new_tokens=NEW_TOKENS,
                eos_token_id=stops,
                pad_token_id=0,
            )
        total = 0
        for row in output[:, width:].tolist():
            ends = [place for place, token in enumerate(row) if token < STOP_TOKENS]
            total += ends[0] + 1 if ends else len(row)
        return total

    return generate


if __name__ == "__main__":
    run_tool(main, uses_torch=True)
