"""Files of answers, and whether two of them can be compared: the same questions, judged by the same verifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.evaluation.accuracy import judged_differently, verifier_of
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.observe.run_files import check_question, read_json_lines

AnsweredQuestion = dict[str, Any]  # as completions/eval_N.jsonl and tools/evaluate.py hold them


def read_completions(path: str) -> list[AnsweredQuestion]:
    """The answered questions of a file: prompt, gold, and completions with correct."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; give a .completions.jsonl file")
    rows = read_json_lines(Path(path), check_question)
    if not rows:
        raise UserError(f"{path}: it has no rows; give a .completions.jsonl file")
    return rows


def check_comparable(models: list[str], rows: list[list[AnsweredQuestion]], is_judged_again: bool) -> None:
    """Raises UserError unless one verifier judged both sides, which answer the same questions."""
    judges = [verifier_of(own) for own in rows]
    if judges[0] != judges[1] and all(judges):
        raise UserError(
            f"--compare: {models[0]} was judged by {judges[0]}, {models[1]} by {judges[1]}: their accuracies say "
            f"nothing of each other; --verifier {judges[0]} judges both again"
        )
    if not all(judges):
        say("note: a file does not say which verifier judged it: the two may differ; --verifier NAME judges both again")
    pairs = [rows, *([read_completions(str(path)) for path in pair] for pair in _starts(models))]
    if not is_judged_again and (count := sum(judged_differently(*pair) for pair in pairs)):
        raise UserError(
            f"--compare: {count} equal answers, of these files or of step 0 beside them, are right in one and wrong in "
            "the other: they were judged differently; --verifier NAME judges both again"
        )
    questions = [[(row["prompt"], row["gold"]) for row in side] for side in rows]
    if questions[0] != questions[1]:
        raise UserError(
            f"--compare: {models[0]} and {models[1]} did not answer the same questions ({len(rows[0])} and "
            f"{len(rows[1])} of them)"
        )


def _starts(files: list[str]) -> list[list[Path]]:
    """The evaluations before training beside two of a run's eval_N.jsonl files, if both are there and not the same."""
    found = [Path(path).with_name("eval_000000.jsonl") for path in files if Path(path).name.startswith("eval_")]
    return [found] if len(set(found)) == 2 and all(path.is_file() for path in found) else []
