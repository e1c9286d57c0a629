#!/usr/bin/env python3
"""Makes a model that plays the guessing game badly: the quickstart's shape, warmed up by a tutor who guesses at random,
and heeds the answers so far with probability --heeds only. How to halve what is left, GRPO has to find out.

Example:
  python examples/tools/make_guesser.py --output output/tools/guesser
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(Path(__file__).resolve().parent)]

from make_model import merges_of, train
from make_tiny_model import write_tokenizer

from mindrlhf_lite.commands.tool import COUNT, POSITIVE_NUMBER, SEED, real_number, run_tool, tool_parser

if TYPE_CHECKING:
    from mindrlhf_lite.data.tokenizer import Tokenizer
    from mindrlhf_lite.types import TrainSequence

QUESTION, HIGHEST, TURNS, NUM_TRAIN = "guess\n", 64, 7, 2048


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--output", required=True, help="folder to write; tasks go into FOLDER/data")
    parser.add_argument("--seed", type=SEED, default=0, help="weights and batches (default: 0)")
    parser.add_argument("--heeds", type=real_number(0, 1), default=0.5, help="default: 0.5")
    parser.add_argument("--steps", type=COUNT, default=400, help="training steps (default: 400)")
    parser.add_argument("--batch_size", type=COUNT, default=32, help="games a step (default: 32)")
    parser.add_argument("--lr", type=POSITIVE_NUMBER, default=2e-3, help="peak learning rate (default: 2e-3)")
    return parser.parse_args()


def game(tokenizer: "Tokenizer", number: int, rng: random.Random, heeds: float) -> "TrainSequence":
    """The tutor's, up to the number or the last turn; what is answered is read, and not learnt."""
    import numpy as np

    from mindrlhf_lite.types import TrainSequence

    prompt, ids, written = tokenizer.encode(QUESTION), [], []
    low, high = 1, HIGHEST
    for turn in range(TURNS):
        guess = rng.randint(low, high) if rng.random() < heeds else rng.randint(1, HIGHEST)
        said = tokenizer.encode_continuation(f"{guess}<|im_end|>")
        ids, written = ids + said, written + [True] * len(said)
        if guess == number or turn == TURNS - 1:
            break
        low, high = (max(low, guess + 1), high) if guess < number else (low, min(high, guess - 1))
        answer = tokenizer.encode_continuation("higher\n" if guess < number else "lower\n")
        ids, written = ids + answer, written + [False] * len(answer)
    mask = np.array(written)
    whole = np.array([*prompt, *ids], np.int32)
    return TrainSequence(whole, len(prompt), np.zeros(len(mask), np.float32), np.float32(mask), written=mask)


def batches(tokenizer: "Tokenizer", args: argparse.Namespace) -> "Iterator[list[TrainSequence]]":
    rng = random.Random(args.seed)
    for _ in range(args.steps):
        yield [game(tokenizer, rng.randint(1, HIGHEST), rng, args.heeds) for _ in range(args.batch_size)]


def write_tasks(folder: Path) -> None:
    """train.jsonl, and held_out.jsonl with every number once."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for name, numbers in (
        ("train", rng.choices(range(1, HIGHEST + 1), k=NUM_TRAIN)),
        ("held_out", range(1, HIGHEST + 1)),
    ):
        rows = [json.dumps({"question": QUESTION, "answer": str(number)}) for number in numbers]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def main() -> None:
    args = parse_arguments()
    folder = Path(args.output)
    write_tasks(folder / "data")
    write_tokenizer(folder, merges_of("guess", "higher", "lower"), ())
    train(folder, args, batches)


if __name__ == "__main__":
    run_tool(main)
