#!/usr/bin/env python3
"""The questions of GSM8K that a model of 135M parameters has a chance at: short ones, with short solutions of one or
two calculations. Test questions: the first 200 as they come, and easy ones.

Example:
  python examples/smollm2/choose_gsm8k.py gsm8k output/smollm2/gsm8k
"""

import json
import sys
from pathlib import Path

MAX_CALCULATIONS, MAX_QUESTION, MAX_SOLUTION = 2, 160, 150  # characters
NUM_FIRST = 200


def is_easy(row: dict[str, str]) -> bool:
    """GSM8K marks every calculation of a solution by <<...>>."""
    question, solution = row["question"], row["answer"]
    return 1 <= solution.count("<<") <= MAX_CALCULATIONS and len(question) < MAX_QUESTION and len(solution) < MAX_SOLUTION


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1].startswith("-"):
        sys.exit(f"usage: python {sys.argv[0]} GSM8K_FOLDER FOLDER\n\n{__doc__}")
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    for name in ("train.jsonl", "test.jsonl"):
        if not (source / name).is_file():
            sys.exit(f"error: {source / name} is not there; give the folder with GSM8K's train.jsonl and test.jsonl")
    train, test = ([json.loads(line) for line in (source / name).read_text(encoding="utf-8").splitlines()] for name in ("train.jsonl", "test.jsonl"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (
        ("train_easy", filter(is_easy, train)),
        ("test_first", test[:NUM_FIRST]),
        ("test_easy", filter(is_easy, test)),
    ):
        rows = list(rows)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        print(f"{folder / name}.jsonl: {len(rows)} questions")


if __name__ == "__main__":
    main()
