#!/usr/bin/env python3
"""What a run changed: held-out accuracy before and after with 95 % intervals, and some of the same questions answered
by both.

Example:
  python examples/smollm2/show.py output/smollm2/seed0_20260101_120000
"""

import json
import sys
from pathlib import Path

NUM_SHOWN = 5


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(f"usage: python {sys.argv[0]} FOLDER\n\n{__doc__}")
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal need not know what a model writes
    folder = Path(sys.argv[1])
    if not (folder / "summary.json").is_file():
        sys.exit(f"error: {folder}: no summary.json there; give the output folder of a run that is done")
    accuracy = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["accuracy"]
    if "before" not in accuracy or "after" not in accuracy:
        sys.exit(f"error: {folder}: the run had no evaluation (rl_config.eval_interval)")
    for name in ("before", "after"):
        low, high = accuracy[name]["interval_95"]
        print(
            f"{name:6} {accuracy[name]['accuracy']:6.1%}  (95 % interval {low:.1%} to {high:.1%}, "
            f"{accuracy[name]['num_questions']} held-out questions)"
        )
    files = sorted((folder / "completions").glob("eval_*.jsonl"))
    texts = (file.read_text(encoding="utf-8") for file in (files[0], files[-1]))
    before, after = ([json.loads(line) for line in text.split("\n") if line] for text in texts)
    for old, new in list(zip(before, after, strict=True))[:NUM_SHOWN]:
        print(f"\ngold {old['gold']}: {' '.join(old['prompt'].split())}")
        for name, row in (("before", old), ("after", new)):
            answer = row["completions"][0]
            print(f"  {name:6} {'right' if answer['correct'] else 'wrong'}  {answer['text']!r}")


if __name__ == "__main__":
    main()
