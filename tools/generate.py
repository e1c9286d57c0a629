#!/usr/bin/env python3
"""Completions of given prompts by the native rollout engine.

Input rows: {"prompt": "..."} or {"prompt_ids": [...]}.
Output rows: {"token_ids": [...], "text": "...", "logprobs": [...], "finish_reason": "stop" | "length"}, --n of them a prompt,
in prompt order.

Example:
  python tools/generate.py --model examples/quickstart/model --input rows.jsonl --output out.jsonl --temperature 0 --max_tokens 40
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.cli import run_tool, tool_parser


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--input", required=True, help=".jsonl file of rows")
    parser.add_argument("--output", required=True, help=".jsonl file to write")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: greedy (default: 1.0)")
    parser.add_argument("--top_k", type=int, default=0, help="0: all (default: 0)")
    parser.add_argument("--top_p", type=float, default=1.0, help="default: 1.0")
    parser.add_argument("--repetition_penalty", type=float, default=1.0, help="default: 1.0")
    parser.add_argument("--max_tokens", type=int, default=128, help="most tokens of a completion (default: 128)")
    parser.add_argument("--min_tokens", type=int, default=0, help="no stop token before this many (default: 0)")
    parser.add_argument("--stop_token_ids", type=int, nargs="*", help="tokens that end a completion (default: eos_token_id of config.json)")
    parser.add_argument("--n", type=int, default=1, help="completions a prompt (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--max_num_seqs", type=int, default=16, help="sequences decoded together (default: 16)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.n < 1 or args.max_num_seqs < 1:
        raise ValueError("--n and --max_num_seqs must be at least 1")
    from tqdm import tqdm

    from mindrlhf_lite.inference import ids_of, load_model_folder, read_rows
    from mindrlhf_lite.models.decoder import Decoder
    from mindrlhf_lite.observe.writers import write_atomically
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.rollout.native import NativeEngine
    from mindrlhf_lite.types import GenerateRequest, SamplingParams

    rows, folder = read_rows(args.input), load_model_folder(args.model)
    stops = args.stop_token_ids if args.stop_token_ids is not None else folder.stop_token_ids
    if bad := [token for token in stops if not 0 <= token < folder.config.vocab_size]:
        raise ValueError(f"--stop_token_ids: {bad} lie outside the vocabulary of {folder.config.vocab_size}")
    filters = {"top_k": args.top_k, "top_p": args.top_p, "repetition_penalty": args.repetition_penalty}
    sampling = SamplingParams(args.max_tokens, args.min_tokens, args.temperature, **filters, stop_token_ids=tuple(stops))
    requests = [
        GenerateRequest(tuple(ids_of(row, "prompt", folder.tokenizer, f"{args.input}: row {number}", folder.config.vocab_size)), args.n, (args.seed, number))
        for number, row in enumerate(rows)
    ]
    length = max(len(request.prompt_ids) for request in requests) + args.max_tokens
    if length > folder.config.max_position_embeddings:
        raise ValueError(f"the longest prompt + --max_tokens is {length}, over the model's max_position_embeddings={folder.config.max_position_embeddings}")
    Mesh()
    engine = NativeEngine(Decoder(folder.config, folder.weights, False, length), args.max_num_seqs, length)
    with tqdm(total=len(requests) * args.n, unit="completion", desc="generating") as progress:
        groups = engine.generate(requests, sampling, lambda count: progress.update(count) and None)
    lines = [
        json.dumps(
            {
                "token_ids": list(completion.token_ids),
                "text": folder.tokenizer.decode(completion.token_ids),
                "logprobs": completion.logprobs.tolist(),
                "finish_reason": completion.finish_reason.value,
            },
            ensure_ascii=False,
        )
        for group in groups
        for completion in group
    ]
    write_atomically(Path(args.output), "\n".join(lines) + "\n")
    print(f"Wrote {args.output}: {len(lines)} completions")


if __name__ == "__main__":
    run_tool(main)
