"""The command line of tools/rlhf_data.py: which rows become prompts, how, and what is checked of them."""

from __future__ import annotations

import argparse

from mindrlhf_lite.commands.tool import COUNT, COUNT_OR_NONE, DIGIT_COUNT, POSITIVE_NUMBER, SEED, TOKEN_ID, tool_parser

_DATASET_TYPES = ["gsm8k", "deepscaler", "math", "simplerl", "openr1math", "kk", "verl", "trl"]
_DATASET_TYPES += ["arithmetic", "reasoning_gym", "custom"]


def conversion_parser(description: str) -> argparse.ArgumentParser:
    parser = tool_parser(description)
    add_groups = (_add_tokenizer, _add_sources, _add_prompts, _add_checks, _add_progress, _add_generated)
    for add_group in add_groups:
        add_group(parser)
    return parser


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """Where settings and the tokenizer come from."""
    parser.add_argument("--config", help="YAML with settings by name, of this list or MindSpeed-RL's")
    parser.add_argument("--tokenizer_dir", help="folder with the tokenizer's files (instead of the next two)")
    parser.add_argument("--vocab_path", help="vocab.json of a Qwen2 tokenizer")
    parser.add_argument("--merges_file_path", help="merges.txt of a Qwen2 tokenizer")


def _add_sources(parser: argparse.ArgumentParser) -> None:
    """Which rows, and which of their fields."""
    parser.add_argument(
        "--dataset_type",
        choices=_DATASET_TYPES,
        help="form of the source rows (default: verl's or TRL's, where the first row has it); custom with --map_keys; "
        "arithmetic without --file_path, and reasoning_gym, are generated",
    )
    parser.add_argument("--file_path", nargs="+", help="source files (.jsonl, .json, .csv, .parquet)")
    parser.add_argument(
        "--ratios",
        type=POSITIVE_NUMBER,
        nargs="+",
        help="shares of the files in the result, until one is used up (default: all rows of all files); of "
        "reasoning-gym's tasks in --num_rows (default: equal ones)",
    )
    parser.add_argument(
        "--map_keys", help='JSON: which fields hold what, {"prompt": .., "response": .., "system": .., "source": ..}'
    )
    parser.add_argument(
        "--keep_columns",
        default="",
        help="more fields of the rows, separated by commas, also by dotted paths: verifiers see them as "
        "completion.columns",
    )


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    """What is written, and how a question becomes a prompt."""
    parser.add_argument("--output_path", help="MindRecord file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace --output_path if it is there")
    parser.add_argument(
        "--prompt_type",
        help="template: plain, qwen, qwen_r1, chat, r1_zero, chat:NAME (of several chat templates that the tokenizer "
        "names), or FILE.yaml:NAME (default: plain; chat for rows that are messages)",
    )
    parser.add_argument(
        "--max_prompt_length",
        type=COUNT,
        default=1024,
        help="longest prompt in tokens; longer ones are bad rows (default: 1024)",
    )
    parser.add_argument(
        "--seq_length",
        type=COUNT,
        default=2048,
        help="prompt + completion of the later run in tokens; must exceed --max_prompt_length (default: 2048)",
    )
    parser.add_argument(
        "--pad_token_id",
        type=TOKEN_ID,
        help="pad prompt_ids to --max_prompt_length with this id (default: no padding; this project needs none)",
    )


def _add_checks(parser: argparse.ArgumentParser) -> None:
    """Which rows are good enough."""
    parser.add_argument(
        "--verifier_function",
        default="",
        help="verifiers of the later run, separated by commas: each gold answer must be found right by all that judge "
        "answers",
    )
    parser.add_argument(
        "--verifier_timeout_s",
        type=POSITIVE_NUMBER,
        default=10.0,
        help="seconds that each may take for one of them (default: 10)",
    )
    parser.add_argument(
        "--skip_bad_rows", action="store_true", help="leave bad rows out and list them instead of stopping"
    )
    parser.add_argument(
        "--dedup",
        action="store_true",
        help="keep the first of questions that differ in white space only; other gold answers are reported",
    )
    parser.add_argument(
        "--sample", type=COUNT_OR_NONE, default=0, help="use so many rows, chosen by --seed; 0: all (default: 0)"
    )


def _add_progress(parser: argparse.ArgumentParser) -> None:
    """How the work is done, and what is shown of it."""
    parser.add_argument("--workers", type=COUNT, default=1, help="processes that tokenize and check (default: 1)")
    parser.add_argument(
        "--log_interval",
        type=COUNT_OR_NONE,
        default=0,
        help="rows between lines of progress; 0: a progress bar (default: 0)",
    )
    parser.add_argument(
        "--inspect",
        type=COUNT_OR_NONE,
        nargs="?",
        const=3,
        default=0,
        metavar="N",
        help="print N prompts (3 if not given), bad rows and lengths; no MindRecord",
    )


def _add_generated(parser: argparse.ArgumentParser) -> None:
    """Generated tasks."""
    parser.add_argument(
        "--num_rows", "--rows", type=COUNT, default=2000, help="of generated tasks: number of rows (default: 2000)"
    )
    parser.add_argument("--task", nargs="+", default=[], help="reasoning_gym: its data sets, e.g. countdown chain_sum")
    parser.add_argument(
        "--levels",
        type=COUNT_OR_NONE,
        nargs="+",
        default=[],
        help="reasoning_gym: levels of its own curriculum, in equal shares; each row keeps its own in the column level "
        "(default: the data set's own difficulty)",
    )
    parser.add_argument(
        "--digits", type=DIGIT_COUNT, default=2, help="generated arithmetic: digits of each number (default: 2)"
    )
    parser.add_argument(
        "--seed",
        type=SEED,
        default=0,
        help="of sampling, mixing, and of generated tasks (default: 0)",
    )
    parser.add_argument(
        "--split",
        choices=["train", "held_out"],
        default="train",
        help="of generated tasks: the splits share no question, and no sum in either order (default: train)",
    )
