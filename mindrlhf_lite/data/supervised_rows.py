"""Rows that are trained on as they are: conversations, prompts with answers, pairs of a better and a worse answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from mindrlhf_lite.data.conversations import Renderer, Sample
from mindrlhf_lite.data.files import read_rows
from mindrlhf_lite.data.messages import are_messages
from mindrlhf_lite.data.row_fields import find_field, needed_field, text_field
from mindrlhf_lite.data.sources import BadRow
from mindrlhf_lite.data.templates import load_template
from mindrlhf_lite.data.tokenizer import Tokenizer, stop_token_ids
from mindrlhf_lite.types import TrainSequence

_CONVERSATION = ("messages", "conversations")
_PROMPT = ("prompt", "question", "instruction")
_SHOWN = 5  # bad rows
_ANSWER = ("completion", "response", "answer", "output")


@dataclass(frozen=True)
class Reading:
    """How rows of a file become sequences. Example: Reading("pairs", "model", "model", 512, 50000)"""

    kind: str  # conversations, or pairs
    tokenizer_dir: str
    model_dir: str  # says which tokens end an answer
    longest: int  # tokens
    vocab_size: int
    prompt_type: str = "plain"
    is_chatml: bool = False
    only_last: bool = False


@dataclass(frozen=True)
class SupervisedRow:
    """Sequences of a row of the file: samples of a conversation; or the chosen and the rejected answer of a pair."""

    row: int  # in the file, from 1
    sequences: tuple[TrainSequence, ...]
    prompt: str  # rendered, up to the first answer
    answer: str
    margin: float = 0.0  # of a pair: by how much the chosen answer is better


@cache
def read_supervised(path: str, reading: Reading) -> tuple[tuple[SupervisedRow, ...], tuple[BadRow, ...]]:
    """(usable rows, the others), in order; read once a process.

    Raises:
        ValueError: the file, the tokenizer or the template cannot be used.
    """
    tokenizer = Tokenizer(reading.tokenizer_dir)
    template = load_template(reading.prompt_type, tokenizer)
    renderer = Renderer(tokenizer, template, reading.is_chatml, stop_token_ids(reading.model_dir, tokenizer))
    samples_of = {"conversations": _conversation, "pairs": _pair}[reading.kind]
    found: list[tuple[int, list[Sample], float]] = []
    bad: list[BadRow] = []
    for number, value in read_rows(Path(path)):
        try:
            if isinstance(value, ValueError):
                raise value
            found.append((number, samples_of(value, renderer, reading.only_last), _margin(value)))
        except ValueError as error:
            bad.append(BadRow(number, str(error), path))
    made = iter(renderer.sequences([sample for _, samples, _ in found for sample in samples]))
    rows = []
    for number, samples, margin in found:
        row = SupervisedRow(number, tuple(next(made) for _ in samples), samples[0][0].text, samples[0][1].text, margin)
        if problem := _problem(row, reading):
            bad.append(BadRow(number, problem, path))
        else:
            rows.append(row)
    return tuple(rows), tuple(sorted(bad, key=lambda each: each.row))


def left_out(bad: Sequence[BadRow]) -> list[str]:
    """Lines for the console."""
    lines = [f"left out: {each.file}:{each.row}: {each.reason}" for each in bad[:_SHOWN]]
    return [*lines, f"left out: {len(bad)} bad rows in all"] if len(bad) > _SHOWN else lines


def _conversation(value: Mapping[str, Any], renderer: Renderer, only_last: bool) -> list[Sample]:
    _, messages = find_field(value, _CONVERSATION)
    if messages is not None:
        if not are_messages(messages):
            raise ValueError(f"field {_CONVERSATION[0]!r}: a list of messages with role and content is needed")
        return renderer.of_messages(messages, 0, only_last)
    prompt = needed_field(value, (*_PROMPT, *_CONVERSATION))[1]
    return _answered(value, prompt, _ANSWER, renderer, only_last)


def _answered(
    value: Mapping[str, Any], prompt: Any, fields: Sequence[str], renderer: Renderer, only_last: bool
) -> list[Sample]:
    """Samples of a prompt and the answer in one of the fields, each a text or messages."""
    if not are_messages(prompt):
        return renderer.of_texts(_as_it_stands(value, _PROMPT), _as_it_stands(value, fields))
    answer = needed_field(value, fields)[1]
    if not are_messages(answer):
        answer = [{"role": "assistant", "content": _as_it_stands(value, fields)}]
    return renderer.of_messages([*prompt, *answer], len(prompt), only_last)


def _as_it_stands(value: Mapping[str, Any], fields: Sequence[str]) -> str:
    """A text with its spaces: an answer may begin with one, and a prompt that was rendered end in a new line."""
    name, found = needed_field(value, fields)
    if isinstance(found, int | float | Decimal) and not isinstance(found, bool):
        raise ValueError(f"field {name!r} is the number {found}: write the text that is trained on, in quotes")
    text_field(value, fields)
    return str(found)


def _pair(value: Mapping[str, Any], renderer: Renderer, only_last: bool) -> list[Sample]:
    """The chosen and the rejected sample, of one prompt."""
    _, prompt = find_field(value, _PROMPT)
    if prompt is not None:
        found = [_answered(value, prompt, (name,), renderer, True)[0] for name in ("chosen", "rejected")]
    else:
        both = [needed_field(value, (name,))[1] for name in ("chosen", "rejected")]
        if not all(map(are_messages, both)):
            raise ValueError("field 'prompt' is missing: without it, chosen and rejected must be whole conversations")
        found = [renderer.of_messages(messages, 0, True)[0] for messages in both]
    if found[0][0] != found[1][0]:
        raise ValueError("the chosen and the rejected answer have different prompts")
    if found[0] == found[1]:
        raise ValueError("the chosen and the rejected answer are equal")
    return found


def _margin(value: Mapping[str, Any]) -> float:
    margin = find_field(value, ("margin",))[1]
    if margin is None:
        return 0.0
    if not isinstance(margin, int | float) or isinstance(margin, bool) or not abs(margin) < 1e6:
        raise ValueError(f"field 'margin' is {str(margin)[:60]!r}; a number is needed")
    if margin < 0:
        raise ValueError(f"field 'margin' is {margin}: then the chosen answer is the worse one; swap the two")
    return float(margin)


def _problem(row: SupervisedRow, reading: Reading) -> str:
    """Why a row cannot be trained on, or ""."""
    for sequence in row.sequences:
        if not sequence.num_counted:
            return "an answer is empty"
        if len(sequence.token_ids) > reading.longest:
            return f"it has {len(sequence.token_ids)} tokens, over rl_config.seq_length={reading.longest}"
        if (largest := int(sequence.token_ids.max())) >= reading.vocab_size:
            return f"it has token id {largest}, but the model's vocabulary has {reading.vocab_size}"
        if not sequence.prompt_length:
            return "its prompt has no token"
    return ""
