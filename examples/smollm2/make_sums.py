#!/usr/bin/env python3
"""Sums in words, as .jsonl: two-digit ones for the held-out set and most of the training set, and easier ones, which
the model often gets right, to begin with.

Example:
  python examples/smollm2/make_sums.py output/smollm2/data
"""

import json
import random
import sys
from pathlib import Path

NUM_HELD_OUT, NUM_TRAIN, NUM_EASY = 200, 2400, 600
QUESTION = "What is {a} + {b}? Answer with the number only."


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(f"usage: python {sys.argv[0]} FOLDER\n\n{__doc__}")
    folder, rng = Path(sys.argv[1]), random.Random(0)
    two_digits = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    one_digit = [(a, b) for a in range(100) for b in range(10)]
    rng.shuffle(two_digits)
    rng.shuffle(one_digit)
    held_out = two_digits[:NUM_HELD_OUT]
    known = {frozenset(pair) for pair in held_out}  # a + b and b + a are one sum
    apart = [pair for pair in two_digits[NUM_HELD_OUT:] if frozenset(pair) not in known]
    easy = [pair for pair in one_digit if frozenset(pair) not in known]
    train = apart[:NUM_TRAIN] + easy[:NUM_EASY]
    rng.shuffle(train)
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in (("train", train), ("held_out", held_out)):
        rows = (json.dumps({"question": QUESTION.format(a=a, b=b), "answer": str(a + b)}) for a, b in pairs)
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
