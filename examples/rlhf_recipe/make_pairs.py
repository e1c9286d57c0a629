#!/usr/bin/env python3
"""Pairs of a question's answers, the one with the higher reward chosen; but for a share in which the rater errs.

The rows are those of tools/sample_best.py --keep best, with the rater as its verifier. Held-out pairs are of other
questions, and without errors.

Example:
  python examples/rlhf_recipe/make_pairs.py --rows output/rlhf_recipe/sampled.jsonl --output output/rlhf_recipe/pairs
"""

import itertools
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.commands.tool import COUNT, SEED, real_number, run_tool, tool_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import read_text, say, write_text


def pairs_of(rows: Sequence[dict], most: int, rng: random.Random, noise: float) -> list[dict]:
    """At most so many pairs of one question's completions. Those that the rater finds alike are no pair."""
    by_reward = sorted(rows, key=lambda row: row["reward"])
    found = [each for each in itertools.combinations(by_reward, 2) if each[0]["reward"] != each[1]["reward"]]
    pairs = []
    for worse, better in rng.sample(found, min(most, len(found))):
        chosen, rejected = (worse, better) if rng.random() < noise else (better, worse)
        pairs.append({"prompt": better["prompt"], "chosen": chosen["response"], "rejected": rejected["response"]})
    return pairs


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("--rows", required=True, help="jsonl file of tools/sample_best.py")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--most", type=COUNT, default=2, help="pairs of a question (default: 2)")
    parser.add_argument("--noise", type=real_number(0, 1), default=0.2, help="share of errors (default: 0.2)")
    parser.add_argument("--held_out", type=COUNT, default=100, help="questions for held-out pairs (default: 100)")
    parser.add_argument("--seed", type=SEED, default=0, help="default: 0")
    args = parser.parse_args()
    rows = [json.loads(line) for line in read_text(args.rows).splitlines()]
    questions = [list(own) for _, own in itertools.groupby(rows, key=lambda row: row["row"])]
    if len(questions) <= args.held_out:
        raise UserError(f"--held_out {args.held_out}: {args.rows} has {len(questions)} questions")
    folder, rng = Path(args.output), random.Random(args.seed)
    folder.mkdir(parents=True, exist_ok=True)
    parts = (("train", questions[args.held_out :], args.noise), ("held_out", questions[: args.held_out], 0.0))
    for name, own, noise in parts:
        pairs = [pair for each in own for pair in pairs_of(each, args.most, rng, noise)]
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs))
        say(f"wrote {folder}/{name}.jsonl: {len(pairs)} pairs")


if __name__ == "__main__":
    run_tool(main)
