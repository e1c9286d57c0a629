#!/usr/bin/env python3
"""Accuracy of a model on a converted data set, with its 95 % interval, pass@k and a breakdown by source; or two models
on the same questions.

--output FILE.json also writes FILE.completions.jsonl: a row a question with its completions, which of them are right,
and the verifier that said so. --compare takes two models, or such files, and tests question by question whether they
differ; a run's completions/eval_N.jsonl are such files too. With --verifier, texts in files are judged again, by that
one: so two runs with verifiers of their own can be compared.

Examples:
  python tools/evaluate.py --model output/quickstart/hf --dataset held_out.mindrecord --k 8 --temperature 1.0 \\
      --output trained.json
  python tools/evaluate.py --compare examples/quickstart/model output/quickstart/hf --dataset held_out.mindrecord \\
      --max_tokens 40
  python tools/evaluate.py --compare output/quickstart/completions/eval_000000.jsonl \\
      output/quickstart/completions/eval_000060.jsonl
  python tools/evaluate.py --model output/tools/hf --dataset held_out.mindrecord --tools calculator \\
      --verifier accuracy_reward --max_tokens 56 --max_prompt_length 24
  python tools/evaluate.py --verifier accuracy_reward a/completions/eval_000060.jsonl b/completions/eval_000060.jsonl
"""

import argparse
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
    SEED,
    run_tool,
    tool_parser,
)
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say

if TYPE_CHECKING:
    from mindrlhf_lite.evaluation.accuracy import Evaluation
    from mindrlhf_lite.observe.answer_files import AnsweredQuestion
    from mindrlhf_lite.rewards.reward_function import RewardFunction


def parse_arguments() -> argparse.Namespace:
    from mindrlhf_lite.inference.acting import add_options

    parser = tool_parser(__doc__)
    parser.add_argument(
        "files", nargs="*", metavar="FILE.jsonl", help="answers that are there already, instead of a model"
    )
    parser.add_argument("--model", help="Hugging Face folder")
    parser.add_argument("--adapter", help=f"with --model: {ADAPTER_HELP}")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two models instead of --model: Hugging Face folders, or .jsonl files of answers",
    )
    parser.add_argument("--dataset", help="MindRecord file of tools/rlhf_data.py")
    parser.add_argument("--k", type=COUNT, default=1, help="completions a question (default: 1)")
    parser.add_argument("--temperature", type=NOT_NEGATIVE_NUMBER, help="default: 0 (greedy) for --k 1, else 1.0")
    parser.add_argument("--max_tokens", type=COUNT, default=512, help="most tokens of a completion (default: 512)")
    parser.add_argument(
        "--verifier",
        help="built-in name, or a function of your own; of files it judges the texts again (default: the one that "
        "judged a file, for models qwen_accuracy_reward)",
    )
    parser.add_argument(
        "--max_prompts", type=COUNT_OR_NONE, default=0, help="first questions only; 0: all (default: 0)"
    )
    parser.add_argument("--max_num_seqs", type=COUNT, default=64, help="sequences decoded together (default: 64)")
    parser.add_argument("--seed", type=SEED, default=0, help="default: 0")
    parser.add_argument("--output", help="JSON file for the result")
    parser.add_argument(
        "--max_prompt_length", type=COUNT, default=1024, help="with tools: most tokens of a prompt (default: 1024)"
    )
    add_options(parser)
    return parser.parse_args()


def evaluate(model: str, args: argparse.Namespace, temperature: float, verifier: str) -> "list[AnsweredQuestion]":
    """A row a question: index, source, prompt, gold, verifier, and its completions with text, tokens, finish_reason and
    correct.
    """
    from mindrlhf_lite.commands.progress import Progress
    from mindrlhf_lite.data.records import read_file
    from mindrlhf_lite.evaluation.accuracy import EVALUATION_STREAM, question_rows
    from mindrlhf_lite.inference.acting import stage_of
    from mindrlhf_lite.inference.model_folder import load_model_folder
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.rewards.reward_function import RewardFunction
    from mindrlhf_lite.rollout.groups import generate_groups
    from mindrlhf_lite.rollout.native import NativeEngine
    from mindrlhf_lite.shapes.model_config import ModelConfig
    from mindrlhf_lite.trainer.verifier_trial import trial_of
    from mindrlhf_lite.types import SamplingParams

    header, prompts = read_file(args.dataset)
    prompts = prompts[: args.max_prompts or None]
    most = ModelConfig.from_dir(model).max_position_embeddings
    if too_long := [prompt for prompt in prompts if len(prompt.ids) >= most]:
        raise UserError(
            f"{args.dataset}: {len(too_long)} prompt(s) leave no room for an answer, the first in row "
            f"{too_long[0].row} with {len(too_long[0].ids)} tokens: {model} takes {most} (max_position_embeddings); "
            f"convert the data with a smaller --max_prompt_length"
        )
    reward = RewardFunction([verifier], [1.0], timeout_s=10, trial=trial_of(prompts[0]))
    folder = load_model_folder(model, args.adapter)
    header.check(folder.tokenizer, model, args.dataset)
    if args.tools and header.template != "plain" and "answers_as=text" not in args.environment_arguments:
        raise UserError(
            f"{args.dataset}: its prompts are rendered already (--prompt_type {header.template}), and --tools render "
            "them with the tools; convert the data with --prompt_type plain"
        )
    most = folder.config.max_position_embeddings
    of_turns = min(args.max_prompt_length + args.max_tokens, most)
    stage = stage_of(args, folder.tokenizer, folder.stop_token_ids, args.max_prompt_length, of_turns)
    length = min(max(len(prompt.ids) for prompt in prompts) + args.max_tokens, most) if stage is None else of_turns
    Mesh()
    engine = NativeEngine(folder.decoder(length), args.max_num_seqs, length)
    sampling = SamplingParams(args.max_tokens, temperature=temperature, stop_token_ids=folder.stop_token_ids)
    with Progress(len(prompts) * args.k, "completion", f"evaluating {Path(model).name}") as progress:
        seeds = [(args.seed, EVALUATION_STREAM, prompt.index) for prompt in prompts]
        groups = generate_groups(engine, folder.tokenizer, prompts, args.k, sampling, seeds, progress.update, stage)
    if stage is not None:
        stage.close()
    rows = question_rows(groups, reward)
    _close(reward, len(rows) * args.k)
    return rows


def _close(reward: "RewardFunction", count: int) -> None:
    reward.close()
    if reward.has_only_failed:
        raise UserError(
            f"--verifier {reward.judge}: it failed on all {count} completions: there is no accuracy to report; mend it"
        )


def judged_again(rows: "list[AnsweredQuestion]", verifier: str, path: str) -> "list[AnsweredQuestion]":
    """The rows of a file, with the verifier's own verdicts on their texts."""
    from mindrlhf_lite.evaluation.accuracy import rejudged
    from mindrlhf_lite.rewards.reward_function import RewardFunction

    if any("text" not in completion for row in rows for completion in row["completions"]):
        raise UserError(f"{path}: its completions have no text: --verifier cannot judge them again")
    reward = RewardFunction([verifier], [1.0], timeout_s=10)
    again = rejudged(rows, reward)
    _close(reward, sum(len(row["completions"]) for row in rows))
    return again


def answers(
    models: list[str], args: argparse.Namespace, temperature: float
) -> "tuple[dict[str, list[AnsweredQuestion]], str]":
    """(rows by model or file, the verifier of models: --verifier, else the files' own, else the default)."""
    from mindrlhf_lite.evaluation.accuracy import verifier_of
    from mindrlhf_lite.observe.answer_files import read_completions

    found = {model: read_completions(model) for model in models if model.endswith(".jsonl")}
    verifier = args.verifier or next(filter(None, map(verifier_of, found.values())), "qwen_accuracy_reward")
    for model in models:
        if model not in found:
            found[model] = evaluate(model, args, temperature, verifier)
        elif args.verifier:
            found[model] = judged_again(found[model], verifier, model)
    return found, verifier


def describe(result: "Evaluation") -> str:
    return (
        f"{result.accuracy:.1%} (95 % interval {result.low:.1%} to {result.high:.1%}; {result.num_questions} "
        f"questions x {result.num_samples})"
    )


def report(rows: "list[AnsweredQuestion]", name: str) -> dict:
    """Prints accuracy, pass@k and the breakdown; returns them."""
    from mindrlhf_lite.evaluation.accuracy import by_source, correctness, summarise, verifier_of

    correct, verifier = correctness(rows, name), verifier_of(rows)
    result, parts = summarise(correct, verifier), by_source(correct, [str(row["source"]) for row in rows], verifier)
    say(f"accuracy {describe(result)}" + (f", by {verifier}" if verifier else ""))
    say("  ".join(f"pass@{k} {value:.1%}" for k, value in result.pass_at.items()))
    if len(parts) > 1:
        width = max(len(source) for source in parts)
        for source, part in parts.items():
            say(f"  {source:{width}}  {describe(part)}")
    return {"model": name, **result.as_dict(), "by_source": {source: part.as_dict() for source, part in parts.items()}}


def write_result(output: str, result: dict, rows: "dict[str, list[AnsweredQuestion]]") -> None:
    from mindrlhf_lite.observe.writers import write_atomically

    for suffix, questions in rows.items():
        path = Path(output).with_suffix(f"{suffix}.completions.jsonl")
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in questions))
        say(f"wrote {path}")
    write_atomically(Path(output), json.dumps(result, indent=1) + "\n")
    say(f"wrote {output}")


def models_of(args: argparse.Namespace, temperature: float) -> list[str]:
    """The models, or files of answers, that are asked for.

    Raises:
        UserError: options that do not go together, or a file of the wrong kind.
    """
    if temperature == 0 and args.k > 1:
        raise UserError(
            "--temperature 0 with --k over 1: greedy completions are all equal; give a positive temperature"
        )
    models = args.compare or args.files or ([args.model] if args.model else [])
    if not models or sum(map(bool, (args.compare, args.files, args.model))) > 1:
        raise UserError("give --model DIR, or --compare A B, or files of answers (.jsonl)")
    if args.adapter and not args.model:
        raise UserError("--adapter goes with --model")
    if strange := [path for path in args.files if not path.endswith((".jsonl", ".json"))]:
        raise UserError(f"{strange[0]}: a file of answers (.jsonl) is needed; a model folder goes behind --model")
    if summaries := [model for model in models if model.endswith(".json")]:
        raise UserError(
            f"{summaries[0]}: holds the figures only; give its answers, "
            f"{Path(summaries[0]).with_suffix('.completions.jsonl')}"
        )
    if args.output and (Path(args.output).is_dir() or not Path(args.output).absolute().parent.is_dir()):
        raise UserError(f"--output {args.output}: a file in a folder that is there is needed")
    if not args.dataset and any(not model.endswith(".jsonl") for model in models):
        raise UserError("--dataset: needed; a MindRecord file of tools/rlhf_data.py")
    if args.output and len(args.files) > 1:
        raise UserError("--output: of one model, of one file, or of --compare")
    return models


def report_each(
    args: argparse.Namespace, temperature: float, verifier: str, rows_by_model: "dict[str, list[AnsweredQuestion]]"
) -> None:
    settings = {"max_tokens": args.max_tokens, "temperature": temperature, "verifier": verifier, "seed": args.seed}
    how = {} if args.files else {"dataset": args.dataset, "settings": settings}  # of a file they are not known
    for model, rows in rows_by_model.items():
        if len(args.files) > 1:
            say(model)
        result = report(rows, model)
        if args.output:
            write_result(args.output, {**result, **how}, {"": rows})


def report_comparison(args: argparse.Namespace, models: list[str], rows: "list[list[AnsweredQuestion]]") -> None:
    from mindrlhf_lite.evaluation.accuracy import compare, correctness

    results = []
    for letter, model, side in zip("AB", models, rows, strict=True):
        say(f"{letter}: {model}")
        results.append(report(side, model))
    counts = [len(side[0]["completions"]) for side in rows]
    if counts[0] != counts[1]:
        say(f"note: A has {counts[0]} completions a question, B {counts[1]}: were they sampled alike?")
    paired = compare(*(correctness(side, model) for model, side in zip(models, rows, strict=True)))
    say(
        f"B - A: {paired.difference:+.1%} (95 % interval {paired.low:+.1%} to {paired.high:+.1%}); B is better "
        f"on {paired.better} questions, worse on {paired.worse}"
    )
    say(f"{paired.test} test: p = {paired.p_value:.2g}")
    if args.output:
        write_result(
            args.output,
            {"a": results[0], "b": results[1], "comparison": paired.as_dict()},
            {".a": rows[0], ".b": rows[1]},
        )


def main() -> None:
    args = parse_arguments()
    from mindrlhf_lite.observe.answer_files import check_comparable

    temperature = args.temperature if args.temperature is not None else (0.0 if args.k == 1 else 1.0)
    models = models_of(args, temperature)
    rows_by_model, verifier = answers(models, args, temperature)
    if not args.compare:
        report_each(args, temperature, verifier, rows_by_model)
        return
    rows = [rows_by_model[model] for model in models]
    check_comparable(models, rows, bool(args.verifier))
    report_comparison(args, models, rows)


if __name__ == "__main__":
    run_tool(main)
