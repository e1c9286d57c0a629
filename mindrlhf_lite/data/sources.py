"""Questions and gold answers: which fields of which data set hold them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mindrlhf_lite.data.files import read_rows
from mindrlhf_lite.data.messages import Turns, are_messages, turns_of
from mindrlhf_lite.data.row_fields import (
    ABSENT,
    field_at,
    field_words,
    find_field,
    needed_field,
    text_field,
    whole_text,
)
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.json_file import parse_json
from mindrlhf_lite.rewards.boxes import last_boxed
from mindrlhf_lite.rewards.knights import knight_statements
from mindrlhf_lite.rewards.numbers import parse_quantity
from mindrlhf_lite.rewards.reasoning import ENTRY


@dataclass(frozen=True)
class Question:
    """Example: Question(row=1, text="Natalia sold clips ...", gold="72", file="train.jsonl", source="gsm8k")"""

    row: int  # in the source file, from 1
    text: str
    gold: str
    system: str = ""  # the row's own system message
    file: str = ""
    source: str = ""  # what accuracy is broken down by
    before: tuple[tuple[str, str], ...] = ()  # (role, content) of earlier turns, where the row is a conversation
    is_chat: bool = False  # the row's prompt is a list of messages
    columns: dict[str, Any] = field(default_factory=dict)  # kept for verifiers: JSON values by name


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
    keep: tuple[str, ...] = ()  # more fields, for verifiers
    gold: Callable[[str], str] = _verbatim
    verifiers: str = (
        "math"  # which kind of verifier has to understand the gold: math, statements of knights and knaves, or own
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
    "reasoning_gym": DatasetType(("question",), ("answer",), source=("task",), keep=(ENTRY,), verifiers="own"),
    "verl": DatasetType(("prompt",), ("reward_model.ground_truth",), source=("data_source",)),
    "trl": DatasetType(
        ("prompt", "messages"), ("answer", "ground_truth", "solution"), source=("source",), gold=_boxed_or_verbatim
    ),
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
        values = parse_json(given) if isinstance(given, str) else dict(given)
    except ValueError as error:
        raise UserError(f"--map_keys {given}: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(field, str) for field in values.values()):
        raise UserError(f"--map_keys {given}: must map {', '.join(_MAP_KEYS)} to names of fields")
    if unknown := set(values) - set(_MAP_KEYS):
        raise UserError(f"--map_keys: {', '.join(sorted(unknown))} is unknown; known: {', '.join(_MAP_KEYS)}")
    return {key: field for key, field in values.items() if field}


def dataset_type(name: str, map_keys: Mapping[str, str], keep: Sequence[str] = ()) -> DatasetType:
    """The type called `name`, with fields named by the user in place of its own. Args: keep: more of them, which
    verifiers see.
    """
    fields: dict[str, Any] = {key: (field,) for key, field in map_keys.items()}
    found = replace(DATASET_TYPES[name], keep=(*DATASET_TYPES[name].keep, *keep), **fields)
    if not found.prompt or not found.response:
        raise UserError(
            f'--dataset_type {name}: say which fields hold question and answer, e.g. --map_keys \'{{"prompt": '
            f'"problem", "response": "answer"}}\''
        )
    return found


def _turns(value: Mapping[str, Any], kind: DatasetType) -> Turns | None:
    """The conversation in the prompt's field; None where it is a text."""
    field, found = needed_field(value, kind.prompt)
    if not are_messages(found):
        return None
    turns = turns_of(found, may_answer=field.rpartition(".")[2] == "messages")
    if not turns.question:
        raise UserError(f"field {field!r}: the last user message is empty")
    for text in (turns.question, turns.system, *(content for _, content in turns.before)):
        whole_text(text, repr(field))
    return turns


def as_question(row: int, value: Mapping[str, Any], kind: DatasetType, file: str = "") -> Question:
    """One row of a data set.

    Raises:
        ValueError: a field is missing or empty, or there is no gold answer in it.
    """
    turns = _turns(value, kind)
    source, system, query = (find_field(value, fields)[1] for fields in (kind.source, kind.system, kind.query))
    question = text_field(value, kind.prompt) if turns is None else turns.question
    own_system = whole_text(system.strip(), field_words(kind.system)) if isinstance(system, str) else ""
    return Question(
        row,
        "\n".join([question, *([whole_text(query.strip(), field_words(kind.query))] if _is_text(query) else [])]),
        kind.gold(text_field(value, _of_gold(value, kind))),
        own_system or (turns.system if turns else ""),
        file,
        whole_text(str(source), field_words(kind.source)) if source is not None else Path(file).stem,
        turns.before if turns else (),
        turns is not None,
        {name: _kept(value, name) for name in kind.keep},
    )


def _of_gold(value: Mapping[str, Any], kind: DatasetType) -> tuple[str, ...]:
    """The fields that the gold answer may be in: of a column with {"ground_truth": ...}, as DAPO-Math-17k has, that."""
    name, found = find_field(value, kind.response)
    return (f"{name}.ground_truth",) if isinstance(found, Mapping) else kind.response


def _kept(value: Mapping[str, Any], name: str) -> Any:
    """A field for verifiers, as JSON holds it."""
    found = needed_field(value, (name,))[1]
    try:
        text = json.dumps(found, ensure_ascii=False, allow_nan=False, default=_as_text)
    except ValueError as error:
        raise UserError(f"field {name!r}, which --keep_columns names, cannot be kept: {error}") from None
    return json.loads(whole_text(text, repr(name)))


def _as_text(value: Any) -> str:
    """Of what JSON lacks: a date of a Parquet file. An object in which a key stands twice is an error."""
    if isinstance(value, ValueError):
        raise value
    return str(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def recognised_type(path: Path) -> str:
    """Which of verl's and TRL's layouts the first good row of a file has: its prompt is a list of messages.

    Raises:
        ValueError: it has neither, or could be read in two ways.
    """
    fields: dict[str, Any] = next((value for _, value in read_rows(path) if isinstance(value, dict)), {})
    asks = [name for name in DATASET_TYPES["trl"].prompt if are_messages(fields.get(name))]
    answers = [name for name in DATASET_TYPES["trl"].response if fields.get(name) is not None]
    if asks and field_at(fields, "reward_model.ground_truth") is not ABSENT:
        return "verl"
    if len(asks) == len(answers) == 1:
        return "trl"
    has = f"; its rows have {', '.join(map(repr, fields))}" if fields else ""
    raise UserError(
        f"{path}: not a layout that is known by itself{has}; say which it is by --dataset_type, or which fields hold "
        'question and answer, e.g. --map_keys \'{"prompt": "problem", "response": "answer"}\''
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
