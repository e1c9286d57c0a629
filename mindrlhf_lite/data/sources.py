"""Questions and gold answers from source files, and the generated arithmetic task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindrlhf_lite.rewards.extraction import last_number


@dataclass(frozen=True)
class Question:
    """Example: Question(row=1, text="Natalia sold clips ...", gold="72")"""

    row: int  # in the source file, from 1
    text: str
    gold: str


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used. Example: BadRow(row=17, reason="field 'answer' is missing")"""

    row: int
    reason: str


def _text_field(value: dict, field: str) -> str:
    if field not in value:
        raise ValueError(f"field {field!r} is missing")
    if not isinstance(value[field], str) or not value[field].strip():
        raise ValueError(f"field {field!r} is {value[field]!r}, a non-empty string is needed")
    return value[field].strip()


def gsm8k_question(row: int, value: dict) -> Question:
    """GSM8K: the gold answer stands behind '####'."""
    answer = _text_field(value, "answer")
    gold = answer.rpartition("####")[2].strip() if "####" in answer else ""
    if last_number(gold) is None:
        raise ValueError(f"the gold answer has no number behind '####': {answer[-60:]!r}")
    return Question(row, _text_field(value, "question"), gold)


def arithmetic_question(row: int, value: dict) -> Question:
    """Rows {"question": "12+34=", "answer": "46"}."""
    gold = _text_field(value, "answer")
    if last_number(gold) is None:
        raise ValueError(f"the gold answer has no number: {gold!r}")
    return Question(row, _text_field(value, "question"), gold)


READERS: dict[str, Callable[[int, dict], Question]] = {"gsm8k": gsm8k_question, "arithmetic": arithmetic_question}


def read_questions(path: Path, dataset_type: str) -> Iterator[Question | BadRow]:
    """One item a line of a .jsonl file; empty lines are passed over."""
    reader = READERS[dataset_type]
    with path.open("rb") as file:
        for row, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError(f"a JSON object is needed, not {type(value).__name__}")
                yield reader(row, value)
            except json.JSONDecodeError as error:
                yield BadRow(row, f"not valid JSON ({error.msg} at column {error.colno})")
            except UnicodeDecodeError:
                yield BadRow(row, "not valid UTF-8")
            except ValueError as error:
                yield BadRow(row, str(error))


def arithmetic_rows(count: int, seed: int, split: str, digits: int = 2) -> Iterator[dict[str, str]]:
    """`count` distinct sums of two numbers of up to `digits` digits; the train and held-out splits share no sum.

    Every pair (a, b) belongs to one split by a fixed seeded shuffle of all pairs: the first fifth is held out.
    """
    limit = 10**digits
    order = np.random.default_rng(seed).permutation(limit * limit)
    held_out = limit * limit // 5
    pairs = order[:held_out] if split == "held_out" else order[held_out:]
    if count > len(pairs):
        raise ValueError(f"--num_rows {count}: the {split} split of {digits}-digit sums has {len(pairs)} rows; ask for fewer or more digits")
    for pair in pairs[:count]:
        a, b = divmod(int(pair), limit)
        yield {"question": f"{a}+{b}=", "answer": str(a + b)}
