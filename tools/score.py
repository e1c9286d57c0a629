#!/usr/bin/env python3
"""Logprobs of given completions under a model.

Input rows: {"prompt": "...", "completion": "..."} or {"prompt_ids": [...], "completion_ids": [...]}.
Output rows: {"token_ids": [...], "logprobs": [...]}, one entry a completion token, natural logarithms.

Example:
  python tools/score.py --model examples/quickstart/model --input rows.jsonl --output scored.jsonl
  python tools/score.py --model Qwen2.5-0.5B --adapter output/hf/adapter --input rows.jsonl --output scored.jsonl
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import ADAPTER_HELP, COUNT, run_tool, tool_parser
from mindrlhf_lite.files.text_file import say


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--adapter", help=ADAPTER_HELP)
    parser.add_argument("--input", required=True, help=".jsonl file of rows")
    parser.add_argument("--output", required=True, help=".jsonl file to write")
    parser.add_argument("--batch_size", type=COUNT, default=8, help="rows a forward pass (default: 8)")
    args = parser.parse_args()
    from mindrlhf_lite.inference.model_folder import as_train_sequences, load_model_folder, read_rows, score_sequences
    from mindrlhf_lite.observe.writers import write_atomically
    from mindrlhf_lite.parallel.mesh import Mesh

    rows, folder = read_rows(args.input), load_model_folder(args.model, args.adapter)
    sequences = as_train_sequences(rows, args.input, folder)
    Mesh()
    scored = score_sequences(sequences, folder, args.batch_size)
    lines = [
        json.dumps({"token_ids": sequence.token_ids[sequence.prompt_length :].tolist(), "logprobs": logprobs.tolist()})
        for sequence, logprobs in zip(sequences, scored, strict=True)
    ]
    write_atomically(Path(args.output), "\n".join(lines) + "\n")
    say(f"Wrote {args.output}: {len(lines)} rows")


if __name__ == "__main__":
    run_tool(main)
