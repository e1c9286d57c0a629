#!/usr/bin/env python3
"""Times whole GRPO steps of any Hugging Face model, and says how far they are from the arithmetic's floor.

Runs the trainer itself, on one rank, with beta 0.04 and one update a step. Without --data, the workload of
../shared/peers/trl_grpo_cpu.py: 16 prompts x 8 completions of exactly 64 tokens. With --data, chat prompts, as
../shared/peers/trl_grpo_real_model.py has them. Prints the peer's JSON line, where the time of the median step went,
and the share of the floor: 10 N FLOPs for each token that has to be computed (2 to generate it, 2 for the reference, 6
for the update, 4 with --lora), a group's prompt once, at the rate of matrix products in this process, in the type it
multiplies in.

Examples:
  python trl_grpo_cpu.py --workdir trl           (the peer, in its own environment; it also writes trl/model)
  python tools/bench_grpo.py --model trl/model
  python tools/bench_grpo.py --model smollm2 --data sums.jsonl --prompts 8 --max_new_tokens 48 --min_new_tokens 0
  python tools/bench_grpo.py --model trl/model --max_new_tokens 512 --lengths log_uniform
  python tools/bench_grpo.py --model qwen2_5_0_5b --data gsm8k.jsonl --prompt_type qwen_r1 --prompts 1 --lora 16
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mindrlhf_lite.commands.tool import COUNT, COUNT_OR_NONE, run_tool, tool_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import write_text
from mindrlhf_lite.native.large_pages import start_with_large_pages

REWARD = """from mindrlhf_lite.rewards import verifier


@verifier(minimum=0.0, maximum=1e6)
def count_ones(completion, gold):
    return completion.text.count("1")
"""
SHORTEST = 5  # tokens of a completion with --lengths log_uniform
FLOPS_A_TOKEN = {"generate": 2, "reference": 2, "update": 6}  # times the parameters


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--data", help="JSON lines with a question each")
    parser.add_argument(
        "--prompt_type", default="chat", help="with --data: its template, as in tools/rlhf_data.py (default: chat)"
    )
    parser.add_argument(
        "--steps", type=COUNT, default=6, help="steps; the first one compiles and is left out (default: 6)"
    )
    parser.add_argument("--prompts", type=COUNT, default=16, help="prompts a step (default: 16)")
    parser.add_argument("--generations", type=COUNT, default=8, help="completions a prompt (default: 8)")
    parser.add_argument(
        "--max_new_tokens", type=COUNT, default=64, help="tokens of a completion, at most (default: 64)"
    )
    parser.add_argument("--min_new_tokens", type=COUNT_OR_NONE, help="and at least (default: max_new_tokens)")
    parser.add_argument(
        "--lengths",
        choices=("generated", "log_uniform"),
        default="generated",
        help="log_uniform: completions are cut to 5 to max_new_tokens tokens, log-uniform (default: generated)",
    )
    parser.add_argument("--micro_batch_num", type=COUNT, default=4, help="micro-batches an update (default: 4)")
    parser.add_argument(
        "--micro_batch_tokens", type=COUNT_OR_NONE, default=0, help="their tokens; 0: by micro_batch_num"
    )
    parser.add_argument(
        "--lora", type=COUNT_OR_NONE, default=0, help="train adapters of this rank; 0: all weights (default: 0)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="any other setting")
    return parser.parse_args()


def matmul_gflops(rows: int = 1024, width: int = 1024) -> float:
    """GFLOP/s of MindSpore's large matrix products in this process, the best of several."""
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor, nn, ops

    class Products(nn.Cell):
        @ms.jit
        def construct(self, x: Tensor, y: Tensor) -> Tensor:
            for _ in range(8):
                x = ops.matmul(x, y)
            return x

    x, y = (Tensor(np.random.default_rng(0).normal(0, 0.03, (rows, width)).astype(np.float32)) for _ in range(2))
    products, seconds = Products(), []
    products(x, y).asnumpy()
    for _ in range(10):
        start = time.perf_counter()
        products(x, y).asnumpy()
        seconds.append(time.perf_counter() - start)
    return 8 * 2 * rows * width * width / min(seconds) / 1e9


def prompts_of(args: argparse.Namespace, model: str) -> list:
    from mindrlhf_lite.data.templates import load_template
    from mindrlhf_lite.data.tokenizer import Tokenizer
    from mindrlhf_lite.inference.model_folder import read_rows
    from mindrlhf_lite.types import Prompt

    tokenizer, rng = Tokenizer(model), random.Random(0)
    if args.data:
        questions = [row.get("question") for row in read_rows(args.data)]
        if not all(isinstance(question, str) for question in questions):
            raise UserError(f"--data {args.data}: every row needs a text in the field question")
        template = load_template(args.prompt_type, tokenizer)
        texts = [template.render(str(question), "") for question in questions]
    else:
        texts = [f"{rng.randint(10, 99)}+{rng.randint(10, 99)}=" for _ in range(512)]  # the peer's prompts
    return [
        Prompt(i, tuple(ids), text, "0", i + 1)
        for i, (text, ids) in enumerate(zip(texts, tokenizer.encode_batch(texts), strict=True))
    ]


def cut_completions(engine: Any, longest: int) -> None:
    """Makes the engine return completions of log-uniform lengths, seeded."""
    import numpy as np

    rng, generate = np.random.default_rng(0), engine.generate

    def cut(*arguments: Any) -> list:
        groups = []
        for completions in generate(*arguments):
            lengths = np.exp(rng.uniform(np.log(SHORTEST), np.log(longest + 1), len(completions))).astype(int)
            groups.append(
                [
                    replace(
                        each,
                        token_ids=each.token_ids[:length],
                        logprobs=each.logprobs[:length],
                        engine_logprobs=each.engine_logprobs[:length],
                    )
                    for each, length in zip(completions, lengths, strict=True)
                ]
            )
        return groups

    engine.generate = cut


def settings_of(args: argparse.Namespace, model: str, longest: int) -> dict[str, Any]:
    """Args: longest: tokens of the longest prompt."""
    from mindrlhf_lite.config.load import parse_overrides

    least = args.max_new_tokens if args.min_new_tokens is None else args.min_new_tokens
    return {
        "rl_config.dataset_file": "prompts.mindrecord",
        "rl_config.output_dir": "out",
        "rl_config.max_steps": args.steps,
        "rl_config.seq_length": -(-(longest + args.max_new_tokens) // 8) * 8,
        "rl_config.chunk_size": args.prompts,
        "rl_config.num_generations": args.generations,
        "rl_config.beta": 0.04,
        "rl_config.micro_batch_tokens": args.micro_batch_tokens,
        "rl_config.save_prompt_completions_data": False,
        "rl_config.save_hf_model": False,
        "actor_config.load": model,
        "actor_config.lora.rank": args.lora,
        "actor_config.lr_schedule.lr": 1e-6 if args.data else 1e-5,
        "actor_config.parallel_config.micro_batch_num": args.micro_batch_num,
        "reward_config.verifier_function": "bench_reward.count_ones",
        "reward_config.verifier_weight": [1.0],
        "generate_config.max_num_seqs": args.prompts * args.generations,
        "generate_config.max_prompt_length": longest,
        "generate_config.sampling_config.max_tokens": args.max_new_tokens,
        "generate_config.sampling_config.min_tokens": least,
        "monitor_config.plots": False,
        **parse_overrides(args.set),
    }


def train(args: argparse.Namespace, model: str, prompts: list) -> tuple[list[dict[str, Any]], str]:
    """(the metrics of every step, what kernels computed them)"""
    from mindrlhf_lite.config.load import build_config
    from mindrlhf_lite.data.records import write_prompts
    from mindrlhf_lite.observe.run_files import read_metrics
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.roles.build import kernels_of_run
    from mindrlhf_lite.trainer.grpo import GrpoTrainer

    with tempfile.TemporaryDirectory() as folder:
        write_prompts(Path(folder) / "prompts.mindrecord", prompts)
        write_text(Path(folder) / "bench_reward.py", REWARD)
        os.chdir(folder)
        config = build_config(settings_of(args, model, max(len(prompt.ids) for prompt in prompts)))
        sys.path.insert(0, folder)
        trainer = GrpoTrainer(config, Mesh())
        if args.lengths == "log_uniform":
            cut_completions(trainer.run.roles.rollout, args.max_new_tokens)
        trainer.train()
        rows = read_metrics(Path("out/metrics.jsonl"))
        os.chdir(ROOT)
    return rows, kernels_of_run(config)


def print_speed(rows: list[dict[str, Any]], num_prompts: int, num_completions: int) -> tuple[float, float]:
    """The peer's line. Returns seconds of the median step and tokens of a step, prompts' included."""
    seconds = statistics.median(row["time_s/step"] for row in rows)
    answered = num_completions * statistics.mean(row["completion/mean_tokens"] for row in rows)
    asked = num_prompts * statistics.mean(row["prompt/mean_tokens"] for row in rows)
    print(
        json.dumps(
            {
                "peer": "mindrlhf_lite",
                "seconds_per_step": round(seconds, 3),
                "completion_tokens_per_second": round(answered / seconds, 1),
            }
        )
    )
    return seconds, asked + answered


def print_floor(
    model: str, seconds: float, tokens: float, parts: dict[str, float], kernels: str, trains_all: bool
) -> None:
    """How far a step is from the arithmetic's floor. Args: seconds, tokens: as of `print_speed`; parts: seconds by
    phase; kernels: of `train`; trains_all: else adapters alone."""
    from mindrlhf_lite.config.model_file import read_model_file
    from mindrlhf_lite.native.library import product_gflops
    from mindrlhf_lite.shapes.parameters import count_parameters

    rate = product_gflops() if kernels.startswith("native") else matmul_gflops()
    parameters = count_parameters(read_model_file(model).shape)
    flops = FLOPS_A_TOKEN if trains_all else {**FLOPS_A_TOKEN, "update": 4}
    needed = {name: factor * parameters * tokens for name, factor in flops.items()}
    floor = sum(needed.values()) / rate / 1e9
    print(
        json.dumps(
            {
                "kernels": kernels,
                "tflop": round(sum(needed.values()) / 1e12, 3),
                "matmul_gflops": round(rate),
                "floor_s": round(floor, 2),
                "share_of_floor": round(floor / seconds, 3),
            }
            | {f"{name}_share": round(count / rate / 1e9 / parts[name], 3) for name, count in needed.items()}
        )
    )


def main() -> None:
    args = parse_arguments()
    start_with_large_pages()  # as the ranks of a job
    if args.steps < 2:
        raise UserError(f"--steps {args.steps}: at least 2, the first one is left out")
    import mindrlhf_lite.trainer.grpo  # noqa: F401  # loading the frameworks is no part of the start

    started, model = time.perf_counter(), str(Path(args.model).resolve())
    (first, *rows), kernels = train(args, model, prompts_of(args, model))
    ready = time.perf_counter() - started - sum(row["time_s/step"] for row in (first, *rows))
    seconds, tokens = print_speed(rows, args.prompts, args.prompts * args.generations)
    parts = {
        name: statistics.median(row[f"time_s/{name}"] for row in rows)
        for name in ("generate", "reward", "reference", "update", "reshard")
    }
    print(
        json.dumps(
            {f"{name}_s": round(value, 3) for name, value in parts.items()}
            | {
                "first_step_s": round(first["time_s/step"], 1),
                "start_s": round(ready, 1),
                "peak_rss_gb": round(rows[-1]["memory/peak_rss_gb"], 2),
                "padding_share": round(statistics.median(row["batch/padding_share"] for row in rows), 3),
            }
        )
    )
    print_floor(model, seconds, tokens, parts, kernels, not args.lora)


if __name__ == "__main__":
    run_tool(main)
