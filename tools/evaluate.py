#!/usr/bin/env python3
"""Accuracy of a model on a converted data set, with its 95 % interval, and pass@k.

Example:
  python tools/evaluate.py --model output/quickstart/hf --dataset held_out.mindrecord --k 8 --temperature 1.0
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.cli import run_tool, tool_parser


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--dataset", required=True, help="MindRecord file of tools/rlhf_data.py")
    parser.add_argument("--k", type=int, default=1, help="completions a question (default: 1)")
    parser.add_argument("--temperature", type=float, help="default: 0 (greedy) for --k 1, else 1.0")
    parser.add_argument("--max_tokens", type=int, default=512, help="most tokens of a completion (default: 512)")
    parser.add_argument("--verifier", default="qwen_accuracy_reward", help="built-in name or dotted path (default: qwen_accuracy_reward)")
    parser.add_argument("--max_prompts", type=int, default=0, help="first questions only; 0: all (default: 0)")
    parser.add_argument("--max_num_seqs", type=int, default=64, help="sequences decoded together (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--output", help="JSON file for the result")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.k < 1 or args.max_num_seqs < 1 or args.max_prompts < 0:
        raise ValueError("--k and --max_num_seqs must be at least 1, --max_prompts must not be negative")
    temperature = args.temperature if args.temperature is not None else (0.0 if args.k == 1 else 1.0)
    if temperature == 0 and args.k > 1:
        raise ValueError("--temperature 0 with --k over 1: greedy completions are all equal; give a positive temperature")
    from tqdm import tqdm

    from mindrlhf_lite.data.records import read_file
    from mindrlhf_lite.evaluation import EVALUATION_STREAM, generate_groups, judge, summarise
    from mindrlhf_lite.inference import load_model_folder
    from mindrlhf_lite.models.decoder import Decoder
    from mindrlhf_lite.observe.writers import write_atomically
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.rewards.runner import RewardFunction
    from mindrlhf_lite.rollout.native import NativeEngine
    from mindrlhf_lite.types import SamplingParams

    (header, prompts), folder = read_file(args.dataset), load_model_folder(args.model)
    header.check(folder.tokenizer, args.model, args.dataset)
    prompts = prompts[: args.max_prompts or None]
    reward = RewardFunction([args.verifier], [1.0], timeout_s=10)
    length = min(max(len(prompt.ids) for prompt in prompts) + args.max_tokens, folder.config.max_position_embeddings)
    Mesh()
    engine = NativeEngine(Decoder(folder.config, folder.weights, False, length), args.max_num_seqs, length)
    sampling = SamplingParams(args.max_tokens, temperature=temperature, stop_token_ids=folder.stop_token_ids)
    with tqdm(total=len(prompts) * args.k, unit="completion", desc="evaluating") as progress:
        seed = (args.seed, EVALUATION_STREAM)
        groups = generate_groups(engine, folder.tokenizer, prompts, args.k, sampling, seed, lambda count: progress.update(count) and None)
    result = summarise(judge(groups, reward))
    reward.close()
    print(f"accuracy {result.accuracy:.1%} (95 % interval {result.low:.1%} to {result.high:.1%}; {result.num_questions} questions x {result.num_samples})")
    print("  ".join(f"pass@{k} {value:.1%}" for k, value in result.pass_at.items()))
    if args.output:
        write_atomically(Path(args.output), json.dumps({"model": args.model, "dataset": args.dataset, **result.as_dict()}, indent=1) + "\n")


if __name__ == "__main__":
    run_tool(main)
