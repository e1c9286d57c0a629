#!/usr/bin/env python3
"""Measures what swapping saves and costs: whole GRPO runs without it, at levels 0 and 1, the optimizer in parts.

The model's weights dominate: random, few short completions. Every run is a process of its own, with `--ranks` under
msrun. Prints the peak of resident memory on the fullest rank, how much it grew over what the program had before it
loaded anything, the need of the largest phase (weights, gradients and moments that must be in memory together), and the
time of a step.

Examples:
  python tools/bench_swap.py
  python tools/bench_swap.py --ranks 2 --hidden 512 --layers 4 --steps 3
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mindrlhf_lite.commands.tool import COUNT, run_tool, tool_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import read_text, write_text

MODES = {
    "off": [],
    "level 0": ["--rl_config.swap=true", "--rl_config.reshard_mem_opt_level=0"],
    "level 1": ["--rl_config.swap=true", "--rl_config.reshard_mem_opt_level=1"],
    "opt_offload": [
        *("--rl_config.swap=true", "--actor_config.optimizer.opt_offload=true"),
        "--actor_config.optimizer.opt_offload_bucket_mb=256",
    ],
}
REWARD = """from mindrlhf_lite.rewards import verifier
@verifier(minimum=0.0, maximum=2.0)
def last_token(completion, gold):
    return len(completion.text) % 3
"""


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--ranks", type=COUNT, default=1, help="default: 1")
    parser.add_argument("--hidden", type=COUNT, default=3072, help="hidden size (default: 3072)")
    parser.add_argument("--layers", type=COUNT, default=4, help="default: 4")
    parser.add_argument(
        "--steps", type=COUNT, default=3, help="steps; the first one compiles and its time is left out (default: 3)"
    )
    parser.add_argument("--swap_dir", default="", help="folder of the spill files (default: a temporary folder)")
    return parser.parse_args()


def measure(folder: Path, name: str, ranks: int, settings: list[str]) -> dict[str, float]:
    """Runs main.py once. Returns figures of the fullest rank in GiB, and seconds a step."""
    output = folder / name.replace(" ", "_")
    command = [str(ROOT / "examples/qwen_grpo/main.py"), *settings, f"--rl_config.output_dir={output}"]
    if ranks == 1:
        command = [sys.executable, *command]
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launch = [
            f"--worker_num={ranks}",
            f"--local_worker_num={ranks}",
            "--master_addr=127.0.0.1",
            f"--master_port={port}",
            "--join=True",
        ]
        command = [str(Path(sys.executable).parent / "msrun"), *launch, f"--log_dir={output}_log", *command]
    environment = {
        **os.environ,
        "GLOG_v": "3",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
    }
    result = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", env=environment)
    if result.returncode:
        raise UserError(f"the run with swapping {name} failed:\n{(result.stdout + result.stderr)[-3000:]}")
    rows = [json.loads(line) for line in read_text(output / "metrics.jsonl").splitlines()][1:]
    memory = json.loads(read_text(output / "summary.json"))["memory"]
    return {
        "peak_rss_gib": round(memory["peak_rss_gb"], 2),
        "growth_gib": round(memory["peak_rss_gb"] - memory["start_rss_gb"], 2),
        "largest_phase_gib": round(memory["largest_phase_gb"], 2),
        "growth_over_largest_phase": round(
            (memory["peak_rss_gb"] - memory["start_rss_gb"]) / memory["largest_phase_gb"], 3
        ),
        "seconds_per_step": round(statistics.median(row["time_s/step"] for row in rows), 2),
        "swap_seconds_per_step": round(statistics.median(row["time_s/swap"] for row in rows), 2),
        "swap_gib_per_step": round(statistics.median(row["swap/bytes"] for row in rows) / 2**30, 2),
    }


def write_inputs(folder: Path, args: argparse.Namespace) -> int:
    """A random model, prompts and a verifier. Returns the model's number of parameters."""
    from mindrlhf_lite.data.records import write_prompts
    from mindrlhf_lite.data.tokenizer import Tokenizer
    from mindrlhf_lite.models.hf_weights import save_hf_model
    from mindrlhf_lite.shapes.model_config import ModelConfig
    from mindrlhf_lite.shapes.parameters import count_parameters, initial_weights
    from mindrlhf_lite.types import Prompt

    tokenizer = Tokenizer(str(ROOT / "examples/quickstart/model"))
    shape = ModelConfig(
        tokenizer.size,
        args.hidden,
        4 * args.hidden,
        args.layers,
        args.hidden // 64,
        args.hidden // 128,
        tie_word_embeddings=False,
    )
    save_hf_model(folder / "model", shape, initial_weights(shape, 0), tokenizer.eos_token_id, tokenizer.pad_token_id)
    tokenizer.save(folder / "model")
    texts = [f"{number}+{number}=" for number in range(10, 42)]
    prompts = [
        Prompt(i, tuple(ids), text, "0", i + 1)
        for i, (text, ids) in enumerate(zip(texts, tokenizer.encode_batch(texts), strict=True))
    ]
    write_prompts(folder / "prompts.mindrecord", prompts)
    write_text(folder / "bench_reward.py", REWARD)
    write_text(folder / "empty.yaml", "rl_config: {}\n")
    return count_parameters(shape)


def settings_of(folder: Path, args: argparse.Namespace) -> list[str]:
    """Of the runs in all modes, as words of a command line."""
    values = {
        "rl_config.dataset_file": folder / "prompts.mindrecord",
        "rl_config.max_steps": args.steps,
        "rl_config.seq_length": 16,
        "rl_config.length_buckets": "[16]",
        "rl_config.chunk_size": 2 * args.ranks,
        "rl_config.num_generations": 2,
        "rl_config.save_hf_model": "false",
        "actor_config.load": folder / "model",
        "reward_config.verifier_function": "bench_reward.last_token",
        "reward_config.verifier_weight": "1.0",
        "generate_config.max_num_seqs": 4,
        "generate_config.max_prompt_length": 8,
        "generate_config.sampling_config.max_tokens": 8,
        "monitor_config.plots": "false",
        "monitor_config.progress_bar": "false",
    }
    return ["--config", str(folder / "empty.yaml"), *(f"--{key}={value}" for key, value in values.items())]


def main() -> None:
    args = parse_arguments()
    if args.steps < 2 or args.ranks < 1:
        raise UserError(
            f"--steps {args.steps} --ranks {args.ranks}: at least 2 steps (the first is left out) and one rank"
        )
    with tempfile.TemporaryDirectory(dir=args.swap_dir or None) as name:
        folder = Path(name)
        num_parameters, settings = write_inputs(folder, args), settings_of(folder, args)
        report: dict = {"weights_gib": round(4 * num_parameters / 2**30, 2), "ranks": args.ranks}
        for mode, extra in MODES.items():
            report[mode] = measure(folder, mode, args.ranks, [*settings, *extra])
            print(json.dumps({mode: report[mode]}), flush=True)
        seconds = {mode: report[mode]["seconds_per_step"] for mode in MODES}
        print(json.dumps(report | {"seconds_over_off": {m: round(seconds[m] / seconds["off"], 2) for m in MODES}}))


if __name__ == "__main__":
    run_tool(main)
