#!/usr/bin/env python3
"""Writes rows for the quickstart's model: sums worked out with every carry, and pairs that prefer them to sums without.

Example:
  python examples/qwen_sft/make_rows.py --output output/rows
"""

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[2] / "tools")]

from mindrlhf_lite.commands.tool import COUNT, run_tool, tool_parser
from mindrlhf_lite.files.text_file import say, write_text


def main() -> None:
    from make_tiny_model import worked_sum

    from mindrlhf_lite.data.arithmetic import arithmetic_rows

    parser = tool_parser(__doc__)
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--num_rows", type=COUNT, default=2000, help="training rows (default: 2000)")
    args = parser.parse_args()
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", args.num_rows), ("held_out", 200)):
        questions = [row["question"] for row in arithmetic_rows(count, 0, split, 2)]
        right = {each: worked_sum(each, lambda: True) for each in questions}
        wrong = {each: worked_sum(each, lambda: False) for each in questions}
        rows = [{"prompt": each, "completion": right[each]} for each in questions]
        pairs = [
            {"prompt": each, "chosen": right[each], "rejected": wrong[each]}
            for each in questions
            if right[each] != wrong[each]
        ]
        for name, found in ((split, rows), (f"{split}_pairs", pairs)):
            write_text(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in found))
    say(f"Wrote {folder}/train.jsonl, held_out.jsonl, train_pairs.jsonl and held_out_pairs.jsonl")


if __name__ == "__main__":
    run_tool(main)
