"""Source rows to a MindRecord file: read, check every row, render, tokenize, write all or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tqdm import tqdm

from mindrlhf_lite.data.sources import BadRow, Question
from mindrlhf_lite.data.templates import render
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.types import Prompt

_BATCH = 512


@dataclass(frozen=True)
class Converted:
    """Prompts in source order, and the rows that cannot be used with their reasons."""

    prompts: list[Prompt]
    bad_rows: list[BadRow]


def convert_questions(items: Iterable[Question | BadRow], template: str, tokenizer: Tokenizer, max_prompt_length: int) -> Converted:
    """Renders and tokenizes all questions. A prompt over `max_prompt_length` tokens is a bad row, never cut."""
    rows = list(items)
    bad = [row for row in rows if isinstance(row, BadRow)]
    questions = [row for row in rows if isinstance(row, Question)]
    prompts: list[Prompt] = []
    with tqdm(total=len(questions), unit="row", desc="tokenizing") as progress:
        for start in range(0, len(questions), _BATCH):
            batch = questions[start : start + _BATCH]
            texts = [render(template, question.text) for question in batch]
            for question, text, ids in zip(batch, texts, tokenizer.encode_batch(texts), strict=True):
                if len(ids) > max_prompt_length:
                    bad.append(BadRow(question.row, f"the prompt has {len(ids)} tokens, over --max_prompt_length {max_prompt_length}"))
                else:
                    prompts.append(Prompt(len(prompts), tuple(ids), text, question.gold, question.row))
            progress.update(len(batch))
    return Converted(prompts, sorted(bad, key=lambda row: row.row))
