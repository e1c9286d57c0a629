"""Source rows to prompts: choose, check every row, render, tokenize, in one process or several.

What is cheap to find out about all rows is found out first: structure and gold answers before anything is tokenized.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from mindrlhf_lite.commands.progress import Progress
from mindrlhf_lite.data.sources import BadRow, Question
from mindrlhf_lite.data.templates import Template, load_template
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.rewards.golds import TIMEOUT_S, Asked, gold_problem, unsatisfied
from mindrlhf_lite.rewards.verifiers import find_verifier
from mindrlhf_lite.types import Prompt

_BATCH = 256


@dataclass(frozen=True)
class Conversion:
    """What every process needs to know. Example: Conversion("qwen_r1", "Qwen2.5-0.5B", max_prompt_length=512)"""

    prompt_type: str
    tokenizer_dir: str | None = None
    vocab_path: str | None = None
    merges_path: str | None = None
    max_prompt_length: int = 1024
    verifiers: str = "math"  # see `gold_problem`
    verifier_names: tuple[str, ...] = ()  # of the later run: each must find the gold answer itself right
    verifier_timeout_s: float = TIMEOUT_S

    def open(self) -> Converter:
        for name in self.verifier_names:
            find_verifier(name)  # a name that cannot be found is said at once
        tokenizer = Tokenizer(self.tokenizer_dir, self.vocab_path, self.merges_path)
        return Converter(self, tokenizer, load_template(self.prompt_type, tokenizer))


@dataclass(frozen=True)
class Converter:
    """A conversion with its tokenizer and template."""

    settings: Conversion
    tokenizer: Tokenizer
    template: Template

    def check(self, questions: Sequence[Question]) -> list[BadRow | None]:
        """What is wrong with each question, but for its length; None: nothing."""
        reasons = map(self._problem, questions)
        return [
            None if reason is None else BadRow(question.row, reason, question.file)
            for question, reason in zip(questions, reasons, strict=True)
        ]

    def tokenize(self, questions: Sequence[Question]) -> list[Prompt | BadRow]:
        """One prompt or bad row a question, in order; a prompt that is too long is a bad row, never cut."""
        results: list[Prompt | BadRow] = []
        texts, limit = [self._render(question) for question in questions], self.settings.max_prompt_length
        for question, text, ids in zip(questions, texts, self.tokenizer.encode_batch(texts), strict=True):
            if len(ids) > limit:
                reason = f"the prompt has {len(ids)} tokens, over --max_prompt_length {limit}"
                results.append(BadRow(question.row, reason, question.file))
            else:
                results.append(
                    Prompt(0, tuple(ids), text, question.gold, question.row, question.source, question.columns)
                )
        return results

    def _render(self, question: Question) -> str:
        if question.before and self.template.render_turns is not None:
            return self.template.render_turns(question.text, question.system, question.before)
        return self.template.render(question.text, question.system)

    def _problem(self, question: Question) -> str | None:
        name = self.template.name
        if question.before and self.template.render_turns is None:
            return f"the row has {len(question.before)} earlier messages, which template {name} would lose; use chat"
        if question.system and not self.template.takes_system:
            out = "use chat" if question.is_chat else "leave it out of --map_keys"
            return f"the row has a system message, which template {name} would lose; put {{system}} in, or {out}"
        if reason := gold_problem(question.gold, self.settings.verifiers):
            return f"the gold answer {question.gold[:80]!r} can be verified by nothing: {reason}"
        return None


_converter: Converter | None = None  # of a worker process


def _start_worker(settings: Conversion) -> None:
    global _converter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command's business; workers end with it
    _converter = settings.open()


def _check_in_worker(questions: Sequence[Question]) -> list[BadRow | None]:
    assert _converter is not None
    return _converter.check(questions)


def _tokenize_in_worker(questions: Sequence[Question]) -> list[Prompt | BadRow]:
    assert _converter is not None
    return _converter.tokenize(questions)


class Crew:
    """The processes that check and tokenize; results do not depend on their number.

    Args: log_interval: rows between lines of progress; 0: a progress bar.
    """

    def __init__(self, converter: Converter, pool: Any = None, log_interval: int = 0):
        self.converter, self.pool, self.log_interval = converter, pool, log_interval

    def check(self, questions: Sequence[Question]) -> list[BadRow | None]:
        progress = Progress(len(questions), "row", "checking", says_end=not self.log_interval)
        return self._run(questions, self.converter.check, _check_in_worker, progress)

    def tokenize(self, questions: Sequence[Question]) -> list[Prompt | BadRow]:
        progress = Progress(len(questions), "row", "tokenizing", is_shown=not self.log_interval)
        return self._run(questions, self.converter.tokenize, _tokenize_in_worker, progress, self.log_interval)

    def tokenize_good(self, questions: Sequence[Question], problems: Sequence[BadRow | None]) -> list[Prompt | BadRow]:
        """Prompts, or bad rows, of the questions that have no problem; the problems of the others."""
        good = [question for question, problem in zip(questions, problems, strict=True) if problem is None]
        tokenized = iter(self.tokenize(good))
        return [next(tokenized) if problem is None else problem for problem in problems]

    def _run(
        self, questions: Sequence[Question], here: Callable, in_worker: Callable, bar: Progress, log_interval: int = 0
    ) -> list[Any]:
        batches = [questions[start : start + _BATCH] for start in range(0, len(questions), _BATCH)]
        done: list[Any] = []
        with bar as progress:
            for results in self.pool.imap(in_worker, batches) if self.pool else map(here, batches):
                before = len(done)
                done += results
                progress.update(len(results))
                if log_interval and len(done) // log_interval > before // log_interval:
                    say(f"tokenized {len(done)} of {len(questions)} rows")
        return done


@contextmanager
def crew(converter: Converter, num_questions: int, workers: int = 1, log_interval: int = 0) -> Iterator[Crew]:
    """A `Crew` of at most `workers` processes."""
    num_batches = -(-num_questions // _BATCH)
    if workers <= 1 or num_batches <= 1:
        yield Crew(converter, None, log_interval)
        return
    context = multiprocessing.get_context("spawn")  # tokenizers' threads do not survive a fork
    with context.Pool(min(workers, num_batches), _start_worker, (converter.settings,)) as pool:
        yield Crew(converter, pool, log_interval)


def convert_questions(
    converter: Converter, questions: Sequence[Question], workers: int = 1, log_interval: int = 0
) -> list[Prompt | BadRow]:
    """A prompt or a bad row for every question, in order. Arguments as of `crew`."""
    with crew(converter, len(questions), workers, log_interval) as processes:
        results = processes.tokenize_good(questions, processes.check(questions))
    return without_unsatisfied(results, questions, converter.settings, workers)


def _asked_by(prompt: Prompt) -> tuple[str, str, str]:
    """(gold answer, source, kept columns as JSON)."""
    return prompt.gold, prompt.source, json.dumps(dict(prompt.columns))


def without_unsatisfied(
    results: Sequence[Prompt | BadRow], questions: Sequence[Question], settings: Conversion, workers: int
) -> list[Prompt | BadRow]:
    """With a bad row instead of every prompt whose gold answer a verifier finds right in no form."""
    if not settings.verifier_names:
        return list(results)
    # of questions with one gold answer, source and kept columns, one is asked for all
    asked = {_asked_by(result): result.text for result in results if isinstance(result, Prompt)}
    tried = [Asked(gold, source, prompt, columns) for (gold, source, columns), prompt in asked.items()]
    unfound = unsatisfied(tried, settings.verifier_names, settings.verifier_timeout_s, workers)
    found = {(each.gold, each.source, each.columns): ", ".join(names) for each, names in unfound.items()}
    return [
        BadRow(
            question.row,
            f"the gold answer {question.gold[:80]!r} is found right in no form by {found[_asked_by(result)]}",
            question.file,
        )
        if isinstance(result, Prompt) and _asked_by(result) in found
        else result
        for question, result in zip(questions, results, strict=True)
    ]


def without_duplicates(prompts: Iterable[Prompt]) -> tuple[list[Prompt], int, list[Prompt]]:
    """(prompts whose text, white space aside, did not occur before; how many did; those of them whose gold answer is
    another than the first one's).
    """
    golds: dict[str, str] = {}
    kept, dropped, contradicting = [], 0, []
    for prompt in prompts:
        key = " ".join(prompt.text.split())
        if key not in golds:
            golds[key] = prompt.gold
            kept.append(prompt)
            continue
        dropped += 1
        if golds[key] != prompt.gold:
            contradicting.append(prompt)
    return kept, dropped, contradicting


def mix(parts: Sequence[Sequence[Prompt]], ratios: Sequence[float], seed: int) -> list[Prompt]:
    """As many prompts of every part as the ratios ask for, until one part is used up; chosen and shuffled by the seed.

    Raises:
        ValueError: ratios are not one positive number a part.
    """
    if len(ratios) != len(parts) or not all(0 < ratio < float("inf") for ratio in ratios):
        raise UserError(
            f"--ratios {' '.join(map(str, ratios))}: one positive number for each of the {len(parts)} files is needed"
        )
    shares = np.array(ratios) / sum(ratios)
    total = min(len(part) / share for part, share in zip(parts, shares, strict=True))
    rng = np.random.default_rng(seed)
    chosen: list[Prompt] = []
    for part, share in zip(parts, shares, strict=True):
        count = min(len(part), int(total * share + 1e-9))
        chosen += [part[index] for index in sorted(rng.permutation(len(part))[:count])]
    return [chosen[index] for index in rng.permutation(len(chosen))]


def shuffled(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    return [prompts[index] for index in np.random.default_rng(seed).permutation(len(prompts))]


def sample(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """`count` prompts chosen by the seed, in their order."""
    if not 0 < count <= len(prompts):
        raise UserError(f"--sample {count}: there are {len(prompts)} usable rows to choose from")
    return [prompts[index] for index in sorted(np.random.default_rng(seed).permutation(len(prompts))[:count])]
