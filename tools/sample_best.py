#!/usr/bin/env python3
"""Rejection sampling: completes every question of a converted data set several times, lets verifiers score them, and
writes the good ones as rows for supervised training.

--output FILE.jsonl gets a row a kept completion: {"prompt", "response"} with the prompt as it was rendered, or, of a
data set that was converted with --prompt_type plain, {"messages": [...]}. FILE.counts.json says how many were left out,
and why. Of completions with the same text one is kept a question; truncated ones are left out. The same --seed gives
the same rows, whatever --max_num_seqs is.

Examples:
  python tools/sample_best.py --model output/quickstart/hf --dataset train.mindrecord --k 8 --output best.jsonl
  python tools/sample_best.py --model DIR --dataset train.mindrecord --k 16 --keep best --most 2 \\
      --verifier qwen_accuracy_reward format_reward --weight 1.0 0.5 --output best.jsonl
  python tools/sample_best.py --model DIR --dataset train.mindrecord --verifier judge_reward --keep best \\
      --min_reward 0.7 --judge address=http://localhost:8000/v1 model=qwen --output best.jsonl
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import (
    ADAPTER_HELP,
    COUNT,
    COUNT_OR_NONE,
    POSITIVE_NUMBER,
    SEED,
    real_number,
    run_tool,
    tool_parser,
)
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say

if TYPE_CHECKING:
    from mindrlhf_lite.config.schema import Config
    from mindrlhf_lite.inference.model_folder import ModelFolder
    from mindrlhf_lite.rollout.protocol import RolloutEngine
    from mindrlhf_lite.types import Prompt, RolloutGroup


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--adapter", help=ADAPTER_HELP)
    parser.add_argument("--dataset", required=True, help="MindRecord file of tools/rlhf_data.py")
    parser.add_argument("--output", required=True, help="jsonl file of the rows")
    parser.add_argument("--form", choices=("prompt", "messages"), default="prompt", help="of a row (default: prompt)")
    parser.add_argument("--k", type=COUNT, default=8, help="completions a question (default: 8)")
    parser.add_argument(
        "--keep", choices=("correct", "best"), default="correct", help="right ones, or the best ones (default: correct)"
    )
    parser.add_argument("--most", type=COUNT, default=1, help="rows of a question, the best first (default: 1)")
    parser.add_argument("--min_reward", type=real_number(-1e9), help="least weighted sum of scores (default: any)")
    parser.add_argument("--keep_truncated", action="store_true", help="completions that --max_tokens cut off, too")
    parser.add_argument(
        "--verifier", nargs="+", default=["qwen_accuracy_reward"], help="built-in names, or functions of your own"
    )
    parser.add_argument("--weight", nargs="+", type=real_number(-1e9), help="one a verifier (default: 1 each)")
    parser.add_argument(
        "--judge",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="of reward_config.judge, for the verifier judge_reward",
    )
    parser.add_argument("--temperature", type=POSITIVE_NUMBER, default=1.0, help="default: 1.0")
    parser.add_argument("--max_tokens", type=COUNT, default=512, help="most tokens of a completion (default: 512)")
    parser.add_argument(
        "--max_prompts", type=COUNT_OR_NONE, default=0, help="first questions only; 0: all (default: 0)"
    )
    parser.add_argument("--max_num_seqs", type=COUNT, default=64, help="sequences decoded together (default: 64)")
    parser.add_argument("--engine", choices=("native", "vllm"), default="native", help="default: native")
    parser.add_argument("--seed", type=SEED, default=0, help="default: 0")
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> "Config":
    """The part of a run's configuration that verifiers read. Raises UserError: it is wrong."""
    from mindrlhf_lite.config.load import build_config, parse_overrides
    from mindrlhf_lite.config.validate import reward_problems

    weights = args.weight or [1.0] * len(args.verifier)
    judge = parse_overrides([f"--reward_config.judge.{each}" for each in args.judge])
    judge.setdefault("reward_config.judge.cache_dir", f"{args.output}.judge")
    names = {"reward_config.verifier_function": args.verifier, "reward_config.verifier_weight": weights}
    config = build_config({**names, **judge})
    if problems := reward_problems(config):
        raise UserError("\n".join(problems))
    return config


def prompts_of(args: argparse.Namespace, folder: "ModelFolder") -> "list[Prompt]":
    from mindrlhf_lite.data.records import read_file

    header, prompts = read_file(args.dataset)
    header.check(folder.tokenizer, args.model, args.dataset)
    if args.form == "messages" and header.template != "plain":
        raise UserError(
            f"--form messages: the prompts of {args.dataset} are rendered already (--prompt_type {header.template}); "
            "use --form prompt, or convert the data with --prompt_type plain"
        )
    prompts, most = prompts[: args.max_prompts or None], folder.config.max_position_embeddings
    if too_long := [prompt for prompt in prompts if len(prompt.ids) >= most]:
        raise UserError(
            f"{args.dataset}: the prompt of row {too_long[0].row} leaves no room: {args.model} takes {most}"
        )
    return prompts


def engine_of(args: argparse.Namespace, folder: "ModelFolder", length: int) -> "RolloutEngine":
    from mindrlhf_lite.parallel.mesh import Mesh

    Mesh()
    if args.engine == "vllm":
        from mindrlhf_lite.rollout.vllm.engine import VllmEngine, VllmOptions

        return VllmEngine(folder.decoder(length), args.model, VllmOptions(length, args.max_num_seqs))
    from mindrlhf_lite.rollout.native import NativeEngine

    return NativeEngine(folder.decoder(length), args.max_num_seqs, length)


def sample(args: argparse.Namespace, folder: "ModelFolder", prompts: "list[Prompt]") -> "list[RolloutGroup]":
    from mindrlhf_lite.commands.progress import Progress
    from mindrlhf_lite.rollout.groups import generate_groups
    from mindrlhf_lite.types import SamplingParams

    longest = max(len(prompt.ids) for prompt in prompts)
    length = min(longest + args.max_tokens, folder.config.max_position_embeddings)
    engine = engine_of(args, folder, length)
    sampling = SamplingParams(args.max_tokens, temperature=args.temperature, stop_token_ids=folder.stop_token_ids)
    seeds = [(args.seed, prompt.index) for prompt in prompts]
    with Progress(len(prompts) * args.k, "completion", f"sampling {Path(args.model).name}") as progress:
        return generate_groups(engine, folder.tokenizer, prompts, args.k, sampling, seeds, progress.update)


def main() -> None:
    args = parse_arguments()
    if Path(args.output).is_dir() or not Path(args.output).absolute().parent.is_dir():
        raise UserError(f"--output {args.output}: a file in a folder that is there is needed")
    config = settings_of(args)
    from mindrlhf_lite.inference.best_samples import Choice, choose
    from mindrlhf_lite.inference.model_folder import load_model_folder
    from mindrlhf_lite.observe.writers import write_atomically
    from mindrlhf_lite.rewards.reward_function import RewardFunction
    from mindrlhf_lite.trainer.verifier_trial import elsewhere_of, trial_of

    folder = load_model_folder(args.model, args.adapter)
    prompts, rewards = prompts_of(args, folder), config.reward_config
    names, weights = rewards.verifier_function, rewards.verifier_weight
    reward = RewardFunction(
        names, weights, rewards.verifier_timeout_s, trial=trial_of(prompts[0]), elsewhere=elsewhere_of(config)
    )
    least = -float("inf") if args.min_reward is None else args.min_reward
    choice = Choice(args.keep, args.most, least, args.keep_truncated)
    rows, counts = choose(sample(args, folder, prompts), reward, choice, args.form)
    reward.close()
    write_atomically(Path(args.output), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    path = Path(args.output).with_suffix(".counts.json")
    write_atomically(path, json.dumps({**counts.as_dict(), "settings": vars(args)}, indent=1) + "\n")
    say(counts.in_words(), f"wrote {args.output} and {path}")
    if not rows and counts.below_least_reward:
        raise UserError(
            f"--min_reward {args.min_reward:g}: nothing was kept; the highest reward below it was "
            f"{counts.best_below:g}: give a lower --min_reward"
        )
    if not rows:
        raise UserError("nothing was kept: another model, more completions (--k) or --keep best may find some")


if __name__ == "__main__":
    run_tool(main)
