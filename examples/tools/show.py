#!/usr/bin/env python3
"""What a run changed: held-out accuracy and calls before and after, and some of the same questions answered by both.

Example:
  python examples/tools/show.py output/tools/seed0_20260101_120000
"""

import json
import sys
from pathlib import Path

NUM_SHOWN = 3


def spoken(completion: dict) -> str:
    """A conversation in one line: what was read stands in brackets."""
    segments = completion["segments"]
    return " ".join(part["text"] if part["written"] else f"[{' '.join(part['text'].split())}]" for part in segments)


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(f"usage: python {sys.argv[0]} FOLDER\n\n{__doc__}")
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal need not know what a model writes
    files = sorted((Path(sys.argv[1]) / "completions").glob("eval_*.jsonl"))
    if len(files) < 2:
        sys.exit(f"error: {sys.argv[1]}: no two evaluations in completions/; give the folder of a run that is done")
    texts = (file.read_text(encoding="utf-8") for file in (files[0], files[-1]))
    before, after = ([json.loads(line) for line in text.split("\n") if line] for text in texts)
    for name, rows in (("before", before), ("after", after)):
        given = [each for row in rows for each in row["completions"]]
        written = [[part["text"] for part in each["segments"] if part["written"]] for each in given]
        right = sum(each["correct"] for each in given) / len(given)
        calls = sum("<tool_call>" in text for texts in written for text in texts) / len(given)
        turns = sum(map(len, written)) / len(given)
        print(f"{name:6} {right:6.1%} of {len(given)} right, {calls:.2f} calls and {turns:.2f} turns a question")
    for old, new in list(zip(before, after, strict=True))[:NUM_SHOWN]:
        print(f"\ngold {old['gold']}")
        for name, row in (("before", old), ("after", new)):
            answer = row["completions"][0]
            print(f"  {name:6} {'right' if answer['correct'] else 'wrong'}  {spoken(answer)}")


if __name__ == "__main__":
    main()
