#!/usr/bin/env python3
"""Converts questions with gold answers into a MindRecord file of prompts.

Reads .jsonl, .json, .csv and .parquet. Every row is checked before anything is written: rows without question or
answer, prompts that are too long, and gold answers that no verifier understands are named by file and row. --config
takes all settings from a YAML, with these names or those of MindSpeed-RL (input, tokenizer_name_or_path, output_prefix,
workers, prompt_type, map_keys, seq_length, log_interval); the command line wins.

Examples:
  python tools/rlhf_data.py --tokenizer_dir Qwen2.5-0.5B --file_path gsm8k/train.jsonl --output_path train.mindrecord \\
      --dataset_type gsm8k --prompt_type qwen_r1
  python tools/rlhf_data.py --tokenizer_dir Qwen2.5-0.5B --file_path mine.csv --output_path train.mindrecord \\
      --dataset_type custom --map_keys '{"prompt": "problem", "response": "answer", "system": ""}'
  python tools/rlhf_data.py --tokenizer_dir Qwen2.5-0.5B --file_path a.json b.json --ratios 3 1 --sample 4000 \\
      --workers 2 \\
      --dataset_type deepscaler --output_path train.mindrecord
  python tools/rlhf_data.py --config data.yaml --inspect 3
  python tools/rlhf_data.py --vocab_path vocab.json --merges_file_path merges.txt --file_path train.jsonl \\
      --output_path train.mindrecord --dataset_type gsm8k
  python tools/rlhf_data.py --tokenizer_dir examples/quickstart/model --dataset_type arithmetic --num_rows 2000 \\
      --seed 0 --split train --output_path train.mindrecord
"""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import fail, run_tool
from mindrlhf_lite.data.conversion_options import conversion_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.job.lock import hold_output

if TYPE_CHECKING:
    from mindrlhf_lite.data.convert import Converter
    from mindrlhf_lite.data.sources import BadRow, Question
    from mindrlhf_lite.types import Prompt

_BAD_ROWS_SHOWN = 20
_SOON_CHECKED = 1000  # rows; of more, what is wrong already is said before their answers are checked
_LONGEST_OF_MINDSPEED_RL = 2048  # tokens of a prompt: its files do not say, its runs do
# MindSpeed-RL's names
_CONFIG_NAMES = {"input": "file_path", "tokenizer_name_or_path": "tokenizer_dir", "output_prefix": "output_path"}


def parse_arguments() -> argparse.Namespace:
    parser = conversion_parser(__doc__)
    args = parser.parse_args()
    if args.config:
        args = parser.parse_args([*read_config(args.config, set(vars(args)) - {"config"}), *sys.argv[1:]])
    if args.map_keys and not args.dataset_type:
        args.dataset_type = "custom"
    if args.file_path and not args.map_keys and args.dataset_type in (None, "custom"):
        from mindrlhf_lite.data.sources import recognised_type

        args.dataset_type = recognised_type(Path(args.file_path[0]))
        say(f"{args.file_path[0]}: read as --dataset_type {args.dataset_type}")
    for name in ("dataset_type", *([] if args.inspect else ["output_path"])):
        if getattr(args, name) is None:
            raise UserError(f"--{name} is needed")
    if args.tokenizer_dir is None and args.vocab_path is None:
        raise UserError("--tokenizer_dir is needed (or --vocab_path and --merges_file_path)")
    from mindrlhf_lite.data.rows import output_problem

    if args.seq_length <= args.max_prompt_length:
        raise UserError(
            f"--seq_length {args.seq_length}: must exceed --max_prompt_length {args.max_prompt_length} to leave "
            "room for a completion"
        )
    if args.file_path is None and args.dataset_type not in ("arithmetic", "reasoning_gym"):
        raise UserError(f"--file_path is needed for --dataset_type {args.dataset_type}")
    if (args.dataset_type == "reasoning_gym") != bool(args.task):
        raise UserError("--task names data sets of --dataset_type reasoning_gym: give both")
    if not args.inspect and (reason := output_problem(args.output_path)):
        raise UserError(f"--output_path {args.output_path}: {reason}")
    if not args.inspect and not args.overwrite and Path(args.output_path).exists():
        raise UserError(f"--output_path {args.output_path}: exists already; give another name, or --overwrite")
    parts = args.task or args.file_path or []
    if args.ratios and len(args.ratios) != len(parts):
        raise UserError(
            f"--ratios {' '.join(map(str, args.ratios))}: one positive number for each of the {len(parts)} "
            f"{'tasks of --task' if args.task else 'files of --file_path'} is needed"
        )
    return args


def read_config(path: str, known: set[str]) -> list[str]:
    """The settings of a YAML as command-line arguments."""
    from mindrlhf_lite.config.aliases.tables import MINDSPEED_RL, find_row
    from mindrlhf_lite.files.strict_yaml import read_yaml_file

    if not Path(path).is_file():
        raise UserError(f"--config {path}: no such file")
    values = read_yaml_file(path, "--config")
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: settings by name are needed")
    arguments: list[str] = []
    for key, value in values.items():
        name, row = _CONFIG_NAMES.get(key, key), find_row(MINDSPEED_RL, f"data.{key}")
        if key == "handler_name":
            if "dataset_type" not in values:
                arguments += ["--dataset_type", "custom"]
            if not {"max_prompt_length", "seq_length"} & values.keys():
                arguments += ["--max_prompt_length", str(_LONGEST_OF_MINDSPEED_RL)]
                arguments += ["--seq_length", str(2 * _LONGEST_OF_MINDSPEED_RL)]
            continue
        if row is not None and row.kind == "accept":
            say(f"--config {path}: {key} is not needed here, and not read")
            continue
        if key == "prompt_type" and value == "empty":
            value = "plain"
        if name not in known:
            raise UserError(f"--config {path}: {key} is unknown; known: {', '.join(sorted({*known, *_CONFIG_NAMES}))}")
        if key == "output_prefix" and not str(value).endswith(".mindrecord"):
            value = f"{value}.mindrecord"
        if value is None or value is False:
            continue
        given = (
            value
            if isinstance(value, list)
            else []
            if value is True
            else [json.dumps(value, default=str) if isinstance(value, dict) else value]
        )
        arguments += [f"--{name}", *map(str, given)]
    return arguments


def read_sources(args: argparse.Namespace) -> "list[list[Question | BadRow]]":
    """The rows of every source."""
    from mindrlhf_lite.data.arithmetic import arithmetic_rows
    from mindrlhf_lite.data.sources import as_question, dataset_type, parse_map_keys, read_questions

    keep = tuple(filter(None, map(str.strip, args.keep_columns.split(","))))
    if args.task:
        from mindrlhf_lite.data.reasoning_tasks import Mixture, questions_of

        return questions_of(Mixture(args.task, args.ratios, args.num_rows, args.seed, args.split, args.levels), keep)
    kind = dataset_type(args.dataset_type, parse_map_keys(args.map_keys or {}), keep)
    if args.file_path is None:
        rows = arithmetic_rows(args.num_rows, args.seed, args.split, args.digits)
        return [[as_question(number, row, kind, "generated arithmetic") for number, row in enumerate(rows, 1)]]
    return [list(read_questions(Path(path), kind)) for path in args.file_path]


def choose(args: argparse.Namespace, parts: "list[list[Prompt]]") -> "list[Prompt]":
    """Usable prompts without duplicates, mixed and sampled as asked for."""
    from mindrlhf_lite.data import convert

    if args.dedup:
        unique, dropped, contradicting = convert.without_duplicates(prompt for part in parts for prompt in part)
        ids = set(map(id, unique))
        parts = [[prompt for prompt in part if id(prompt) in ids] for part in parts]
        say(f"Dropped duplicates: {dropped}")
        if contradicting:
            rows = ", ".join(f"{prompt.source} row {prompt.row}" for prompt in contradicting[:_BAD_ROWS_SHOWN])
            say(f"of them {len(contradicting)} with another gold answer than the one that was kept: {rows}")
    chosen = [prompt for part in parts for prompt in part]
    if args.task:  # whose rows are as many as the ratios ask for
        chosen = convert.shuffled(chosen, args.seed)
    elif args.ratios:
        chosen = convert.mix(parts, args.ratios, args.seed)
    return convert.sample(chosen, args.sample, args.seed) if args.sample else chosen


def open_converter(args: argparse.Namespace, prompt_type: str) -> "Converter":
    from mindrlhf_lite.data.convert import Conversion
    from mindrlhf_lite.data.sources import DATASET_TYPES

    verifiers = tuple(filter(None, map(str.strip, args.verifier_function.split(","))))
    return Conversion(
        prompt_type,
        args.tokenizer_dir,
        args.vocab_path,
        args.merges_file_path,
        args.max_prompt_length,
        DATASET_TYPES[args.dataset_type].verifiers,
        verifiers,
        args.verifier_timeout_s,
    ).open()


def with_template_of_messages(
    args: argparse.Namespace, converter: "Converter", questions: "list[Question]"
) -> "Converter":
    """The tokenizer's chat template where no template was asked for and rows are conversations."""
    if args.prompt_type is not None or not any(question.is_chat for question in questions):
        return converter
    if not converter.tokenizer.has_chat_template:
        say("the rows are messages, and the tokenizer has no chat template: the last user message is the prompt")
        return converter
    say("the rows are messages: rendered with the tokenizer's chat template (--prompt_type chat)")
    return open_converter(args, "chat")


def stop_at_bad_rows(args: argparse.Namespace, bad: "list[BadRow]", unchecked: str = "", kept: str = "") -> list[str]:
    """Lines about bad rows; ends the process unless they may be left out."""
    rows = sorted(bad, key=lambda row: (row.file, row.row))
    lines = [f"{row.file}:{row.row}: {row.reason}" for row in rows[:_BAD_ROWS_SHOWN]]
    if len(rows) > _BAD_ROWS_SHOWN:
        lines.append(f"... and {len(rows) - _BAD_ROWS_SHOWN} more")
    if rows and not args.skip_bad_rows and not args.inspect:
        what = f"{len(rows)} bad row(s), nothing written; mend the file, or leave them out with --skip_bad_rows"
        fail("\n".join(filter(None, [*lines, what, unchecked, kept])))
    return lines


def convert(
    args: argparse.Namespace, converter: "Converter", parts: "list[list[Question | BadRow]]"
) -> "list[list[Prompt | BadRow]]":
    """Prompts and bad rows of every source, in order. What is cheap to check is checked of all rows first.

    Raises:
        SystemExit: bad rows, and --skip_bad_rows is not given.
    """
    from mindrlhf_lite.data.convert import crew, without_unsatisfied
    from mindrlhf_lite.data.kept import Keeper, Kept
    from mindrlhf_lite.data.sources import BadRow, Question

    questions = [row for part in parts for row in part if isinstance(row, Question)]
    bad = [row for part in parts for row in part if isinstance(row, BadRow)]
    stops = not args.skip_bad_rows and not args.inspect
    if bad and stops and len(questions) > _SOON_CHECKED:
        first = f"{bad[0].file}:{bad[0].row}: {bad[0].reason}"
        more = f"the answers of the other {len(questions)} are being checked"
        say(f"{len(bad)} bad row(s) so far, the first {first}; {more}", file=sys.stderr)
    keeper = Keeper(args.output_path, converter, questions)
    before = keeper.take_up()
    with crew(converter, len(questions), args.workers, args.log_interval) as processes:
        problems = before.problems if before else processes.check(questions)
        found = [*bad, *(problem for problem in problems if problem)]
        if found and stops:
            stop_at_bad_rows(args, found, "(prompts are tokenized when these are mended)", keeper.keep(Kept(problems)))
        if args.sample > problems.count(None):
            raise UserError(f"--sample {args.sample}: there are {problems.count(None)} usable rows to choose from")
        tokenized = (before.results if before else None) or processes.tokenize_good(questions, problems)
    results = without_unsatisfied(tokenized, questions, converter.settings, args.workers)
    found = [*bad, *(row for row in results if isinstance(row, BadRow))]
    if found and stops:
        stop_at_bad_rows(args, found, kept=keeper.keep(Kept(problems, tokenized)))
    in_order = iter(results)
    return [[row if isinstance(row, BadRow) else next(in_order) for row in part] for part in parts]


def main() -> None:
    args = parse_arguments()
    from mindrlhf_lite.data.kept import kept_path
    from mindrlhf_lite.data.preview import preview
    from mindrlhf_lite.data.records import Header, Padding, write_prompts
    from mindrlhf_lite.data.sources import BadRow, Question
    from mindrlhf_lite.types import Prompt

    if args.output_path:
        hold_output(args.output_path)
    converter = open_converter(args, args.prompt_type or "plain")
    parts = read_sources(args)
    questions = [row for part in parts for row in part if isinstance(row, Question)]
    converter = with_template_of_messages(args, converter, questions)
    start = time.perf_counter()
    checked = convert(args, converter, parts)
    seconds = time.perf_counter() - start
    bad = [row for part in checked for row in part if isinstance(row, BadRow)]
    lines = stop_at_bad_rows(args, bad)
    usable = [[row for row in part if isinstance(row, Prompt)] for part in checked]
    if not any(usable):
        source = ", ".join(args.task or args.file_path or ["generated arithmetic"])
        fail("\n".join([*lines, f"{source}: no usable row, nothing written"]))
    if lines:
        say(*lines, f"Skipped bad rows: {len(bad)}")
    prompts = [replace(prompt, index=index) for index, prompt in enumerate(choose(args, usable))]
    if args.inspect:
        preview(prompts, args.inspect, Path(args.output_path) if args.output_path else None)
        return
    longest = max(len(prompt.ids) for prompt in prompts)
    padding = None if args.pad_token_id is None else Padding(args.pad_token_id, args.max_prompt_length)
    header = Header(
        str(args.tokenizer_dir or args.vocab_path),
        converter.tokenizer.fingerprint(),
        converter.settings.prompt_type,
        dict(Counter(prompt.source for prompt in prompts)),
        longest,
        max(max(prompt.ids) for prompt in prompts),
    )
    write_prompts(args.output_path, prompts, padding, header)
    kept_path(args.output_path).unlink(missing_ok=True)
    say(
        f"Wrote {args.output_path} (longest prompt: {longest} tokens; {len(questions) / seconds:.0f} "
        f"rows/s)\nTotal number of samples: {len(prompts)}"
    )


if __name__ == "__main__":
    run_tool(main)
