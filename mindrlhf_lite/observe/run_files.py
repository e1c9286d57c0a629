"""What the files of a run must hold, checked as they are read: a damaged, or hostile, one is named with row and field.

Fields that no reader uses are not looked at. Metrics may be NaN or infinite, as those of a diverged run are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindrlhf_lite.errors import UserError, short_repr
from mindrlhf_lite.files.json_file import parse_json
from mindrlhf_lite.files.text_file import read_text
from mindrlhf_lite.types import FinishReason

START_FILE = "run.json"  # what a run says of itself as it begins
_SHOWN = 60  # characters of a value in a message
_MOST = 2**63 - 1


@dataclass(frozen=True)
class _Kind:
    """Example: _Kind("a text", lambda value: isinstance(value, str))"""

    name: str
    holds: Callable[[Any], bool]


def _is_float(value: Any) -> bool:
    return isinstance(value, float) or (_is_int(value) and abs(value) <= _MOST)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_piece(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and _is_float(value[1])


def _is_share(value: Any) -> bool:
    return _is_float(value) and 0 <= value <= 1


_TEXT = _Kind("a text", lambda value: isinstance(value, str))
_TRUTH = _Kind("true or false", lambda value: isinstance(value, bool))
_LIST = _Kind("a list", lambda value: isinstance(value, list))
_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))
_COUNT = _Kind("a whole number from 0 on", lambda value: _is_int(value) and 0 <= value <= _MOST)
_NUMBER = _Kind("a finite number", lambda value: _is_float(value) and math.isfinite(value))
_SHARE = _Kind("a number from 0 to 1", _is_share)
_INTERVAL = _Kind(
    "a list of two numbers from 0 to 1",
    lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_share, value)),
)
_ANSWERS = _Kind("a list of at least one answer", lambda value: isinstance(value, list) and bool(value))
_SEGMENTS = _Kind(
    "a list of segments with written and text",
    lambda value: (
        isinstance(value, list)
        and all(isinstance(each, dict) and isinstance(each.get("text"), str) and "written" in each for each in value)
    ),
)
_PIECES = _Kind(
    "a list by turn of lists of [text, advantage]",
    lambda value: (
        isinstance(value, list) and all(isinstance(turn, list) and all(map(_is_piece, turn)) for turn in value)
    ),
)
_REASON = _Kind(
    f"one of {', '.join(reason.value for reason in FinishReason)}",
    lambda value: value in [reason.value for reason in FinishReason],
)
# a question mark: may be missing
_FIELDS: dict[str, dict[str, _Kind]] = {
    "completion": {
        **dict.fromkeys(("prompt", "completion", "gold", "outcome"), _TEXT),
        "reward": _NUMBER,
        "tokens": _COUNT,
        "segments?": _SEGMENTS,
        "token_advantages?": _PIECES,
    },
    "question": {
        **dict.fromkeys(("prompt", "gold", "source", "verifier?"), _TEXT),
        "index?": _COUNT,
        "columns?": _OBJECT,
        "completions": _ANSWERS,
    },
    "sample": {"index": _COUNT, **dict.fromkeys(("prompt", "answer", "completion"), _TEXT), "tokens?": _COUNT},
    "numbered": {"index": _COUNT},
    "written": {"text": _TEXT},
    "answer": {"correct": _TRUTH, "text?": _TEXT, "tokens?": _COUNT, "finish_reason?": _REASON}
    | {"answer?": _TEXT, "segments?": _SEGMENTS},
    "summary": {"accuracy?": _OBJECT, "config?": _OBJECT, "seconds?": _NUMBER, "world_size?": _COUNT, "health?": _LIST}
    | {"steps?": _COUNT},
    "start": {"last_step": _COUNT, "config": _OBJECT, "world_size?": _COUNT},
    "finding": {"check": _TEXT, "first_step": _COUNT, "last_step": _COUNT, "what": _TEXT},
    "accuracy": {"accuracy": _SHARE, "interval_95": _INTERVAL, "num_questions?": _COUNT, "verifier?": _TEXT},
}


def _check(values: Any, name: str, where: str) -> dict[str, Any]:
    """Raises UserError unless the values have the fields of `name`."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: an object is needed, not {_short(values)}")
    for field, kind in _FIELDS[name].items():
        key, may_miss = field.rstrip("?"), field.endswith("?")
        if key not in values and may_miss:
            continue
        if key not in values:
            raise UserError(f"{where}: field {key!r} is missing; {kind.name} is needed")
        if not kind.holds(values[key]):
            raise UserError(f"{where}: {key}={_short(values[key])}: {kind.name} is needed")
    return values


def _short(value: Any) -> str:
    return short_repr(value, _SHOWN)


def check_completion(row: Any, where: str) -> dict[str, Any]:
    """A row of completions/step_N.jsonl. Raises UserError: what it lacks, behind `where`."""
    return _check(row, "completion", where)


def check_question(row: Any, where: str) -> dict[str, Any]:
    """An answered question, as tools/evaluate.py takes it. Raises as `check_completion`."""
    for number, answer in enumerate(_check(row, "question", where)["completions"], 1):
        _check(answer, "answer", f"{where}, completion {number}")
    return row


def check_evaluation(row: Any, where: str) -> dict[str, Any]:
    """A row of completions/eval_N.jsonl: a question with its number and the texts. Raises as `check_completion`."""
    for number, answer in enumerate(check_question(row, where)["completions"], 1):
        _check(answer, "written", f"{where}, completion {number}")
    return _check(row, "numbered", where)


def check_sample(row: Any, where: str) -> dict[str, Any]:
    """A row of completions/eval_N.jsonl of a run on rows: a completion that nobody judged. Raises likewise."""
    return _check(row, "sample", where)


def check_summary(values: Any, where: str) -> dict[str, Any]:
    """A summary.json. Raises as `check_completion`."""
    for name, evaluation in _check(values, "summary", where).get("accuracy", {}).items():
        _check(evaluation, "accuracy", f"{where}: accuracy of {name!r}")
    for number, finding in enumerate(values.get("health", []), 1):
        _check(finding, "finding", f"{where}: entry {number} of health")
    return values


def check_start(values: Any, where: str) -> dict[str, Any]:
    """A run.json. Raises as `check_completion`."""
    return _check(values, "start", where)


def check_metrics(row: Any, where: str) -> dict[str, Any]:
    """A row of metrics.jsonl: numbers by name, the step among them. Raises as `check_completion`."""
    if not isinstance(row, dict) or not _COUNT.holds(row.get("step")):
        raise UserError(f"{where}: an object with a step, {_COUNT.name}, is needed, not {_short(row)}")
    for key, value in row.items():
        if type(value) is not float and not _is_float(value):  # a long run has a million of these
            raise UserError(f"{where}: {key!r} is {_short(value)}; a number is needed")
    return row


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics.jsonl, none where there is no file; a last line cut short by a crash is left out.

    Raises:
        UserError: another line is no row of metrics.
    """
    lines = read_text(path).rstrip("\n").split("\n") if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(check_metrics(parse_json(line), f"{path}:{number}"))
        except UserError:
            raise
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path}:{number}: {error}") from None
    return rows


def check_is_regular(path: Path) -> None:
    """Raises UserError for a folder, a link to nothing, and what a reader could wait at for ever (a FIFO)."""
    if not path.is_file():
        raise UserError(f"{path}: a regular file is needed, and this is none; remove it")


def read_json_lines(path: Path, check: Callable[[Any, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a file, each checked. Raises UserError: file, line, and what is wrong."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):  # splitlines() would also cut inside texts
        if line.strip():
            try:
                rows.append(check(parse_json(line), f"{path}:{number}"))
            except UserError:
                raise
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}") from None
    return rows


def accuracies(summary: Mapping[str, Any], moment: str) -> dict[str, Any] | None:
    """The evaluation "before" or "after" of a summary; None where there was none."""
    return summary.get("accuracy", {}).get(moment)
