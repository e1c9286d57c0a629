"""Products of three-digit numbers: questions in two splits, and how a tutor answers them."""

import json
import random
from pathlib import Path

NUM_HELD_OUT, NUM_TRAIN, SHARE_HELD_OUT = 200, 4000, 0.2
CALL = '<tool_call>{{"name": "calculator", "arguments": {{"expression": "{expression}"}}}}</tool_call><|im_end|>'


def pairs(split: str, count: int, rng: random.Random, short: float = 0.0) -> list[tuple[int, int]]:
    """Pairs of three-digit numbers; those of a fifth of all first numbers are held out.

    Args: short: share for which a product of five digits is looked for; of others most have six.
    """
    numbers = list(range(100, 1000))
    random.Random(0).shuffle(numbers)
    cut = int(SHARE_HELD_OUT * len(numbers))
    first = numbers[:cut] if split == "held_out" else numbers[cut:]
    found = []
    for _ in range(count):
        a = rng.choice(first)
        found.append((a, rng.randrange(100, max(101, 100_000 // a) if rng.random() < short else 1000)))
    return found


def question(a: int, b: int) -> str:
    return f"{a}*{b}="


def estimate(a: int, b: int) -> str:
    """What the tutor says from memory: the product of rounded numbers, which is seldom right."""
    return f"{round(a, -2) * round(b, -2)}<|im_end|>"


def write_rows(folder: Path) -> None:
    """train.jsonl and held_out.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", NUM_TRAIN), ("held_out", NUM_HELD_OUT)):
        found = pairs(split, count, random.Random(split))
        rows = [json.dumps({"question": question(a, b), "answer": str(a * b)}) for a, b in found]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
