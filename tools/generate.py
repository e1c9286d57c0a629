#!/usr/bin/env python3
"""Completions of given prompts by the native rollout engine, or a conversation in the terminal.

Input rows: {"prompt": "..."} or {"prompt_ids": [...]}.
Output rows: {"token_ids": [...], "text": "...", "logprobs": [...], "finish_reason": "stop" | "length"}, --n of them a
prompt, in prompt order.

--chat reads a question a line and shows the answer as it is made; /new forgets the conversation, /exit or Ctrl-D ends
it. Prompts follow the tokenizer's chat template (or ChatML); a model without one continues each line as it is;
--prompt_type renders each line as in training. With --tools the model's calls are answered, and it goes on.

Examples:
  python tools/generate.py --model examples/quickstart/model --input rows.jsonl --output out.jsonl \\
      --temperature 0 --max_tokens 40
  python tools/generate.py --model Qwen2.5-0.5B-Instruct --chat --system "You are a patient tutor." --max_tokens 512
  python tools/generate.py --model output/hf --chat --prompt_type r1_zero --temperature 0
  python tools/generate.py --model Qwen2.5-0.5B-Instruct --chat --tools calculator my_tools.py:search
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import (
    ADAPTER_HELP,
    COUNT,
    COUNT_OR_NONE,
    NOT_NEGATIVE_NUMBER,
    POSITIVE_NUMBER,
    SEED,
    TOKEN_ID,
    real_number,
    run_tool,
    tool_parser,
)
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import printable_lines, say

if TYPE_CHECKING:
    from mindrlhf_lite.episodes.play import Stage
    from mindrlhf_lite.inference.chat import Conversation
    from mindrlhf_lite.inference.model_folder import ModelFolder
    from mindrlhf_lite.rollout.native import NativeEngine
    from mindrlhf_lite.types import SamplingParams


def parse_arguments() -> argparse.Namespace:
    from mindrlhf_lite.inference.acting import add_options

    parser = tool_parser(__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--adapter", help=ADAPTER_HELP)
    parser.add_argument("--input", help=".jsonl file of rows")
    parser.add_argument("--output", help=".jsonl file to write")
    parser.add_argument("--chat", action="store_true", help="a conversation in the terminal instead of files")
    parser.add_argument("--system", default="", help="with --chat: the system message")
    parser.add_argument(
        "--prompt_type",
        help="with --chat: template of every line, as in tools/rlhf_data.py; turns before it are not shown to the "
        "model",
    )
    parser.add_argument(
        "--max_length",
        type=COUNT,
        default=2048,
        help="with --chat: tokens of prompt and answer together (default: 2048)",
    )
    parser.add_argument("--temperature", type=NOT_NEGATIVE_NUMBER, default=1.0, help="0: greedy (default: 1.0)")
    parser.add_argument("--top_k", type=COUNT_OR_NONE, default=0, help="0: all (default: 0)")
    parser.add_argument("--top_p", type=real_number(0, 1, False), default=1.0, help="default: 1.0")
    parser.add_argument("--repetition_penalty", type=POSITIVE_NUMBER, default=1.0, help="default: 1.0")
    parser.add_argument("--max_tokens", type=COUNT, default=128, help="most tokens of a completion (default: 128)")
    parser.add_argument(
        "--min_tokens", type=COUNT_OR_NONE, default=0, help="no stop token before this many (default: 0)"
    )
    parser.add_argument(
        "--stop_token_ids",
        type=TOKEN_ID,
        nargs="*",
        help="tokens that end a completion (default: those of the model's own files)",
    )
    parser.add_argument("--n", type=COUNT, default=1, help="completions a prompt (default: 1)")
    parser.add_argument("--seed", type=SEED, default=0, help="default: 0")
    parser.add_argument("--max_num_seqs", type=COUNT, default=16, help="sequences decoded together (default: 16)")
    add_options(parser)
    return parser.parse_args()


def sampling_of(args: argparse.Namespace, folder: "ModelFolder") -> "SamplingParams":
    from mindrlhf_lite.types import SamplingParams

    stops = args.stop_token_ids if args.stop_token_ids is not None else folder.stop_token_ids
    if bad := [token for token in stops if not 0 <= token < folder.config.vocab_size]:
        raise UserError(f"--stop_token_ids: {bad} lie outside the vocabulary of {folder.config.vocab_size}")
    filters = {"top_k": args.top_k, "top_p": args.top_p, "repetition_penalty": args.repetition_penalty}
    return SamplingParams(args.max_tokens, args.min_tokens, args.temperature, **filters, stop_token_ids=tuple(stops))


def chat(args: argparse.Namespace) -> None:
    from mindrlhf_lite.data.templates import load_template
    from mindrlhf_lite.inference.acting import stage_of
    from mindrlhf_lite.inference.chat import Conversation
    from mindrlhf_lite.inference.model_folder import load_model_folder
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.rollout.native import NativeEngine

    if args.input or args.output or args.n != 1 or args.environment:
        raise UserError("--input, --output, --n and --environment do not go with --chat")
    args.environment_arguments = [*args.environment_arguments, "opens=false"] if args.tools else []
    folder = load_model_folder(args.model, args.adapter)
    length, sampling = min(args.max_length, folder.config.max_position_embeddings), sampling_of(args, folder)
    if sampling.max_tokens >= length:
        raise UserError(
            f"--max_tokens {sampling.max_tokens}: must be below --max_length (and the model's "
            f"max_position_embeddings), {length}"
        )
    template = load_template(args.prompt_type, folder.tokenizer) if args.prompt_type else None
    conversation = Conversation(folder.tokenizer, args.system, template)
    if args.system and not (template.takes_system if template else conversation.remembers):
        raise UserError(
            f"--system: {f'template {args.prompt_type}' if template else 'a model without a chat template'} has "
            "no place for it"
        )
    stage = stage_of(args, folder.tokenizer, sampling.stop_token_ids, length, length)
    if stage is not None:
        if args.prompt_type or not folder.tokenizer.has_chat_template:
            raise UserError("--tools: the tokenizer's chat template shows them to the model; without --prompt_type")
        conversation.tools = stage.bridge.tools
    Mesh()
    engine = NativeEngine(folder.decoder(length), 1, length)
    form = args.prompt_type or (
        "the whole conversation is the prompt"
        if conversation.remembers
        else "no chat template: every line is continued as it is"
    )
    say(f"{args.model} ({form}); /new starts over, /exit ends")
    with contextlib.nullcontext() if stage is None else contextlib.closing(stage):
        converse(conversation, engine, sampling, args.seed, stage)


def converse(
    conversation: "Conversation",
    engine: "NativeEngine",
    sampling: "SamplingParams",
    seed: int,
    stage: "Stage | None",
) -> None:
    """Answers every line of standard input, until it ends or /exit."""
    from mindrlhf_lite.inference.chat import answer

    turn = 0
    while True:
        try:
            question = typed("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        except UnicodeError:
            print("error: this line is not UTF-8 text", file=sys.stderr)
            continue
        if question.strip() == "/exit":
            return
        if question.strip() == "/new":
            conversation.turns.clear()
        elif question.strip():
            turn += 1
            try:
                answer(
                    conversation,
                    question,
                    engine,
                    sampling,
                    (seed, turn),
                    lambda text: print(printable_lines(text), end="", flush=True),
                    stage,
                )
                print()
            except ValueError as error:
                print(f"error: {printable_lines(str(error))}", file=sys.stderr)


def typed(prompt: str) -> str:
    """A line of standard input, which may be UTF-8 also where the locale says ASCII.

    Raises:
        UnicodeError: it is no text.
    """
    line = input(prompt)
    try:
        line.encode()
    except UnicodeEncodeError:  # bytes that the locale's encoding lacks
        return line.encode(sys.stdin.encoding, "surrogateescape").decode()
    return line


def complete_file(args: argparse.Namespace) -> None:
    if not args.input or not args.output:
        raise UserError("--input and --output are needed, or --chat")
    if args.tools or args.environment:
        raise UserError("--tools: for --chat; tools/evaluate.py plays whole episodes")
    from mindrlhf_lite.commands.progress import Progress
    from mindrlhf_lite.inference.model_folder import ids_of, load_model_folder, read_rows
    from mindrlhf_lite.observe.writers import write_atomically
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.rollout.native import NativeEngine
    from mindrlhf_lite.types import GenerateRequest

    rows, folder = read_rows(args.input), load_model_folder(args.model, args.adapter)
    sampling = sampling_of(args, folder)
    requests = [
        GenerateRequest(
            tuple(ids_of(row, "prompt", folder.tokenizer, f"{args.input}: row {number}", folder.config.vocab_size)),
            args.n,
            (args.seed, number),
        )
        for number, row in enumerate(rows)
    ]
    length = max(len(request.prompt_ids) for request in requests) + args.max_tokens
    if length > folder.config.max_position_embeddings:
        raise UserError(
            f"the longest prompt + --max_tokens is {length}, over the model's "
            f"max_position_embeddings={folder.config.max_position_embeddings}"
        )
    Mesh()
    num_slots = min(args.max_num_seqs, len(requests) * args.n)
    engine = NativeEngine(folder.decoder(length), num_slots, length)
    with Progress(len(requests) * args.n, "completion", "generating") as progress:
        groups = engine.generate(requests, sampling, progress.update)
    lines = [
        json.dumps(
            {
                "token_ids": list(completion.token_ids),
                "text": folder.tokenizer.decode(completion.token_ids),
                "logprobs": None if completion.logprobs is None else completion.logprobs.tolist(),
                "finish_reason": completion.finish_reason.value,
            },
            ensure_ascii=False,
        )
        for group in groups
        for completion in group
    ]
    write_atomically(Path(args.output), "\n".join(lines) + "\n")
    say(f"Wrote {args.output}: {len(lines)} completions")


def main() -> None:
    args = parse_arguments()
    if args.chat:
        chat(args)
    else:
        complete_file(args)


if __name__ == "__main__":
    run_tool(main)
