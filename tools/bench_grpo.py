#!/usr/bin/env python3
"""Times whole GRPO steps on the workload that ../shared/peers/trl_grpo_cpu.py times TRL on.

16 prompts x 8 completions of exactly 64 tokens, beta 0.04, one update a step, the peer's weights and prompts. Runs the
trainer itself, on one rank. Prints the peer's JSON line, then where the time of the median step went.

Examples:
  python trl_grpo_cpu.py --workdir trl           (the peer, in its own environment; it also writes trl/model)
  python tools/bench_grpo.py --model trl/model
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mindrlhf_lite.cli import run_tool, tool_parser
from mindrlhf_lite.errors import UserError

REWARD = """from mindrlhf_lite.rewards import verifier


@verifier(minimum=0.0, maximum=1e6)
def count_ones(completion, gold):
    return completion.text.count("1")
"""


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder, as the peer wrote it")
    parser.add_argument(
        "--steps", type=int, default=6, help="steps; the first one compiles and is left out (default: 6)"
    )
    parser.add_argument("--prompts", type=int, default=16, help="prompts a step (default: 16)")
    parser.add_argument("--generations", type=int, default=8, help="completions a prompt (default: 8)")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="tokens of every completion (default: 64)")
    parser.add_argument("--micro_batch_num", type=int, default=4, help="micro-batches an update (default: 4)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.steps < 2:
        raise UserError(f"--steps {args.steps}: at least 2, the first one is left out")
    from mindrlhf_lite.config.load import build_config
    from mindrlhf_lite.data.records import write_prompts
    from mindrlhf_lite.data.tokenizer import Tokenizer
    from mindrlhf_lite.observe.writers import read_metrics
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.trainer.grpo import GrpoTrainer
    from mindrlhf_lite.types import Prompt

    model, completions = str(Path(args.model).resolve()), args.prompts * args.generations
    tokenizer, rng = Tokenizer(model), random.Random(0)
    texts = [f"{rng.randint(10, 99)}+{rng.randint(10, 99)}=" for _ in range(512)]  # the peer's prompts
    prompts = [
        Prompt(i, tuple(ids), text, "0", i + 1)
        for i, (text, ids) in enumerate(zip(texts, tokenizer.encode_batch(texts), strict=True))
    ]
    longest = max(len(prompt.ids) for prompt in prompts)
    length = -(-(longest + args.max_new_tokens) // 8) * 8
    with tempfile.TemporaryDirectory() as folder:
        write_prompts(Path(folder) / "prompts.mindrecord", prompts)
        (Path(folder) / "bench_reward.py").write_text(REWARD)
        os.chdir(folder)
        config = build_config(
            {
                "rl_config.dataset_file": "prompts.mindrecord",
                "rl_config.output_dir": "out",
                "rl_config.max_steps": args.steps,
                "rl_config.seq_length": length,
                "rl_config.length_buckets": [length],
                "rl_config.chunk_size": args.prompts,
                "rl_config.num_generations": args.generations,
                "rl_config.beta": 0.04,
                "rl_config.save_prompt_completions_data": False,
                "rl_config.save_hf_model": False,
                "actor_config.load": model,
                "actor_config.lr_schedule.lr": 1e-5,
                "actor_config.parallel_config.micro_batch_num": args.micro_batch_num,
                "reward_config.verifier_function": "bench_reward.count_ones",
                "reward_config.verifier_weight": [1.0],
                "generate_config.max_num_seqs": completions,
                "generate_config.max_prompt_length": longest,
                "generate_config.sampling_config.max_tokens": args.max_new_tokens,
                "generate_config.sampling_config.min_tokens": args.max_new_tokens,
                "monitor_config.plots": False,
            }
        )
        sys.path.insert(0, folder)
        GrpoTrainer(config, Mesh()).train()
        rows = read_metrics(Path("out/metrics.jsonl"))[1:]
        os.chdir(ROOT)
    median = statistics.median(row["time_s/step"] for row in rows)
    tokens = completions * args.max_new_tokens
    print(
        json.dumps(
            {
                "peer": "mindrlhf_lite",
                "seconds_per_step": round(median, 3),
                "completion_tokens_per_second": round(tokens / median, 1),
            }
        )
    )
    parts = {
        name: statistics.median(row[f"time_s/{name}"] for row in rows)
        for name in ("generate", "reward", "reference", "update", "reshard")
    }
    print(
        json.dumps(
            {f"{name}_s": round(value, 3) for name, value in parts.items()}
            | {"peak_rss_gb": round(rows[-1]["memory/peak_rss_gb"], 2)}
        )
    )


if __name__ == "__main__":
    run_tool(main)
