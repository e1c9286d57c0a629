#!/usr/bin/env python3
"""Converts questions with gold answers into a MindRecord file of prompts.

Examples:
  python tools/rlhf_data.py --tokenizer_dir Qwen2.5-0.5B --file_path gsm8k/train.jsonl --output_path train.mindrecord \\
      --dataset_type gsm8k --prompt_type qwen_r1
  python tools/rlhf_data.py --vocab_path vocab.json --merges_file_path merges.txt --file_path train.jsonl \\
      --output_path train.mindrecord --dataset_type gsm8k
  python tools/rlhf_data.py --tokenizer_dir examples/quickstart/model --dataset_type arithmetic --num_rows 2000 \\
      --seed 0 --split train --output_path train.mindrecord
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.cli import fail, run_tool, tool_parser

_BAD_ROWS_SHOWN = 20


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--tokenizer_dir", help="folder with the tokenizer's files (instead of the next two)")
    parser.add_argument("--vocab_path", help="vocab.json of a Qwen2 tokenizer")
    parser.add_argument("--merges_file_path", help="merges.txt of a Qwen2 tokenizer")
    parser.add_argument(
        "--dataset_type", required=True, choices=["gsm8k", "arithmetic"], help="form of the source rows; arithmetic without --file_path is generated"
    )
    parser.add_argument("--file_path", help="source file (.jsonl)")
    parser.add_argument("--output_path", required=True, help="MindRecord file to write")
    parser.add_argument("--prompt_type", default="plain", help="template: plain, qwen, qwen_r1, or FILE.yaml:NAME (default: plain)")
    parser.add_argument("--max_prompt_length", type=int, default=1024, help="longest prompt in tokens; longer ones are bad rows (default: 1024)")
    parser.add_argument(
        "--seq_length", type=int, default=2048, help="prompt + completion of the later run in tokens; must exceed --max_prompt_length (default: 2048)"
    )
    parser.add_argument("--pad_token_id", type=int, help="pad prompt_ids to --max_prompt_length with this id (default: no padding; this project needs none)")
    parser.add_argument("--skip_bad_rows", action="store_true", help="leave bad rows out and list them instead of stopping")
    parser.add_argument("--num_rows", type=int, default=2000, help="generated arithmetic: number of rows (default: 2000)")
    parser.add_argument("--digits", type=int, default=2, help="generated arithmetic: digits of each number (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="generated arithmetic: which sums are held out, and their order (default: 0)")
    parser.add_argument("--split", choices=["train", "held_out"], default="train", help="generated arithmetic: the splits share no sum (default: train)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    from mindrlhf_lite.data.convert import convert_questions
    from mindrlhf_lite.data.records import Padding, write_prompts
    from mindrlhf_lite.data.sources import arithmetic_question, arithmetic_rows, read_questions
    from mindrlhf_lite.data.templates import load_template
    from mindrlhf_lite.data.tokenizer import Tokenizer

    if args.seq_length <= args.max_prompt_length:
        raise ValueError(f"--seq_length {args.seq_length}: must exceed --max_prompt_length {args.max_prompt_length} to leave room for a completion")
    if args.file_path is None and args.dataset_type != "arithmetic":
        raise ValueError(f"--file_path is needed for --dataset_type {args.dataset_type}")
    if args.file_path is not None and not Path(args.file_path).is_file():
        raise ValueError(f"--file_path {args.file_path}: no such file")
    template = load_template(args.prompt_type)
    tokenizer = Tokenizer(args.tokenizer_dir, args.vocab_path, args.merges_file_path)
    if args.file_path is not None:
        items = read_questions(Path(args.file_path), args.dataset_type)
    else:
        rows = arithmetic_rows(args.num_rows, args.seed, args.split, args.digits)
        items = (arithmetic_question(number, row) for number, row in enumerate(rows, 1))
    converted = convert_questions(items, template, tokenizer, args.max_prompt_length)

    source = args.file_path or "generated arithmetic"
    lines = [f"{source}:{bad.row}: {bad.reason}" for bad in converted.bad_rows]
    shown = lines[:_BAD_ROWS_SHOWN] + ([f"... and {len(lines) - _BAD_ROWS_SHOWN} more"] if len(lines) > _BAD_ROWS_SHOWN else [])
    if lines and not args.skip_bad_rows:
        fail("\n".join([*shown, f"{len(lines)} bad row(s), nothing written; mend the file, or leave them out with --skip_bad_rows"]))
    if not converted.prompts:
        fail("\n".join([*shown, f"{source}: no usable row, nothing written"]))
    padding = None if args.pad_token_id is None else Padding(args.pad_token_id, args.max_prompt_length)
    write_prompts(args.output_path, converted.prompts, padding)
    if lines:
        print("\n".join(shown), f"Skipped bad rows: {len(lines)}", sep="\n")
    longest = max(len(prompt.ids) for prompt in converted.prompts)
    print(f"Wrote {args.output_path} (longest prompt: {longest} tokens)\nTotal number of samples: {len(converted.prompts)}")


if __name__ == "__main__":
    run_tool(main)
