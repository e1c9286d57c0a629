#!/usr/bin/env python3
"""Writes worked sums for the cold start: prompts of a converted file, each with a thought and an answer in tags.

Example:
  python examples/r1_recipe/make_rows.py --dataset output/r1_recipe/data/train.mindrecord --output rows.jsonl
"""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.commands.tool import COUNT, run_tool, tool_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say, write_text

SUM = re.compile(r"What is (\d+) \+ (\d+)\?")


def worked(one: int, other: int) -> str:
    """Example: worked(23, 48) ends in "<answer>71</answer>"."""
    (tens, ones), (more_tens, more_ones) = divmod(one, 10), divmod(other, 10)
    first, last = 10 * (tens + more_tens), ones + more_ones
    thought = (
        f"{10 * tens} + {10 * more_tens} = {first}, {ones} + {more_ones} = {last}, {first} + {last} = {first + last}"
    )
    return f"<think>{thought}</think><answer>{first + last}</answer>"


def main() -> None:
    from mindrlhf_lite.data.records import read_file

    parser = tool_parser(__doc__)
    parser.add_argument("--dataset", required=True, help="MindRecord file of sums (examples/smollm2/make_sums.py)")
    parser.add_argument("--output", required=True, help="jsonl file to write")
    parser.add_argument("--num_rows", type=COUNT, default=600, help="default: 600")
    args = parser.parse_args()
    lines = []
    for prompt in read_file(args.dataset)[1][: args.num_rows]:
        if (found := SUM.search(prompt.text)) is None:
            raise UserError(f"--dataset {args.dataset}: no sum in {prompt.text!r}")
        lines.append(json.dumps({"prompt": prompt.text, "completion": worked(*map(int, found.groups()))}) + "\n")
    write_text(args.output, "".join(lines))
    say(f"Wrote {args.output}: {len(lines)} rows")


if __name__ == "__main__":
    run_tool(main)
