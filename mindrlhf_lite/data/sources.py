"""Questions and gold answers: which fields of which data set hold them, and the generated arithmetic task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.data.files import read_rows
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.boxes import last_boxed
from mindrlhf_lite.rewards.knights import knight_statements
from mindrlhf_lite.rewards.numbers import parse_quantity


@dataclass(frozen=True)
class Question:
    """Example: Question(row=1, text="Natalia sold clips ...", gold="72", file="train.jsonl", source="gsm8k")"""

    row: int  # in the source file, from 1
    text: str
    gold: str
    system: str = ""  # the row's own system message
    file: str = ""
    source: str = ""  # what accuracy is broken down by


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used. Example: BadRow(row=17, reason="field 'answer' is missing", file="train.jsonl")"""

    row: int
    reason: str
    file: str = ""


def _verbatim(text: str) -> str:
    return text


def _behind_hashes(text: str) -> str:
    gold = text.rpartition("####")[2].strip() if "####" in text else ""
    if parse_quantity(gold) is None:
        raise UserError(f"the gold answer has no number behind '####': {text[-60:]!r}")
    return gold


def _number(text: str) -> str:
    if parse_quantity(text) is None:
        raise UserError(f"the gold answer has no number: {text!r}")
    return text


def _boxed_or_verbatim(text: str) -> str:
    return last_boxed(text) or text


def _statements(text: str) -> str:
    if not knight_statements(text):
        raise UserError(f"the gold answer says of nobody whether they are a knight or a knave: {text[-60:]!r}")
    return text


@dataclass(frozen=True)
class DatasetType:
    """Where a data set keeps what; of several names the first that a row has counts. `gold` finds the gold answer in
    the response field, or raises ValueError.
    """

    prompt: tuple[str, ...]
    response: tuple[str, ...]
    system: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    query: tuple[str, ...] = ()  # what may follow the question, on a line of its own
    gold: Callable[[str], str] = _verbatim
    verifiers: str = (
        "math"  # which kind of verifier has to understand the gold: math, or statements of knights and knaves
    )


DATASET_TYPES: dict[str, DatasetType] = {
    "gsm8k": DatasetType(("question",), ("answer",), gold=_behind_hashes),
    "deepscaler": DatasetType(("problem",), ("answer",), source=("type",)),
    "math": DatasetType(("problem",), ("answer", "solution"), source=("subject", "type"), gold=_boxed_or_verbatim),
    "simplerl": DatasetType(
        ("question", "problem"), ("gt_answer", "ground_truth_answer", "answer"), source=("subject",)
    ),
    "openr1math": DatasetType(("problem",), ("answer",), source=("source", "problem_type")),
    "kk": DatasetType(("quiz",), ("solution_text_format", "solution_text"), gold=_statements, verifiers="statements"),
    "arithmetic": DatasetType(("question",), ("answer",), gold=_number),
    "custom": DatasetType((), ()),
}
_MAP_KEYS = ("prompt", "response", "system", "source", "query")


def parse_map_keys(given: str | Mapping[str, str]) -> dict[str, str]:
    """{"prompt": field, "response": field, "system": field, "source": field} from JSON text or a YAML mapping; empty
    ones are left out.

    Raises:
        ValueError: not such a mapping, or an unknown key.
    """
    try:
        values = json.loads(given) if isinstance(given, str) else dict(given)
    except json.JSONDecodeError as error:
        raise UserError(f"--map_keys {given}: not valid JSON ({error.msg})") from None
    if not isinstance(values, dict) or not all(isinstance(field, str) for field in values.values()):
        raise UserError(f"--map_keys {given}: must map {', '.join(_MAP_KEYS)} to names of fields")
    if unknown := set(values) - set(_MAP_KEYS):
        raise UserError(f"--map_keys: {', '.join(sorted(unknown))} is unknown; known: {', '.join(_MAP_KEYS)}")
    return {key: field for key, field in values.items() if field}


def dataset_type(name: str, map_keys: Mapping[str, str]) -> DatasetType:
    """The type called `name`, with fields named by the user in place of its own."""
    fields: dict[str, Any] = {key: (field,) for key, field in map_keys.items()}
    found = replace(DATASET_TYPES[name], **fields)
    if not found.prompt or not found.response:
        raise UserError(
            f'--dataset_type {name}: say which fields hold question and answer, e.g. --map_keys \'{{"prompt": '
            f'"problem", "response": "answer"}}\''
        )
    return found


def _find(value: Mapping[str, Any], fields: Sequence[str]) -> Any:
    for field in fields:
        if value.get(field) is not None:
            return value[field]
    return None


def _text(value: Mapping[str, Any], fields: Sequence[str]) -> str:
    found = _find(value, fields)
    if found is None:
        absent = not any(field in value for field in fields)
        there = f"; the row has {', '.join(map(repr, value))}" if value else ""
        raise UserError(f"field {' or '.join(map(repr, fields))} is {'missing' + there if absent else 'null'}")
    if isinstance(found, int | float) and not isinstance(found, bool):
        found = str(found)
    if not isinstance(found, str) or not found.strip():
        raise UserError(f"field {' or '.join(map(repr, fields))} is {found!r}, a non-empty string is needed")
    return found.strip()


def as_question(row: int, value: Mapping[str, Any], kind: DatasetType, file: str = "") -> Question:
    """One row of a data set.

    Raises:
        ValueError: a field is missing or empty, or there is no gold answer in it.
    """
    source = _find(value, kind.source)
    system, query = _find(value, kind.system), _find(value, kind.query)
    return Question(
        row,
        "\n".join([_text(value, kind.prompt), *([query.strip()] if isinstance(query, str) and query.strip() else [])]),
        kind.gold(_text(value, kind.response)),
        system.strip() if isinstance(system, str) else "",
        file,
        str(source) if source is not None else Path(file).stem,
    )


def read_questions(path: Path, kind: DatasetType) -> Iterator[Question | BadRow]:
    """One item a row of the file; empty lines are passed over."""
    for number, value in read_rows(path):
        try:
            if isinstance(value, ValueError):
                raise value
            yield as_question(number, value, kind, str(path))
        except ValueError as error:
            yield BadRow(number, str(error), str(path))


def arithmetic_rows(count: int, seed: int, split: str, digits: int = 2) -> Iterator[dict[str, str]]:
    """`count` distinct sums of two numbers of up to `digits` digits; the train and held-out splits share no sum.

    Every pair (a, b) belongs to one split by a fixed seeded shuffle of all pairs: the first fifth is held out.
    """
    limit = 10**digits
    order = np.random.default_rng(seed).permutation(limit * limit)
    held_out = limit * limit // 5
    pairs = order[:held_out] if split == "held_out" else order[held_out:]
    if count > len(pairs):
        raise UserError(
            f"--num_rows {count}: the {split} split of {digits}-digit sums has {len(pairs)} rows; ask for fewer "
            "or more digits"
        )
    for pair in pairs[:count]:
        a, b = divmod(int(pair), limit)
        yield {"question": f"{a}+{b}=", "answer": str(a + b)}
