"""Source rows to prompts: choose, check every row, render, tokenize, in one process or several."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from mindrlhf_lite.data.sources import BadRow, Question
from mindrlhf_lite.data.templates import Template, load_template
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.errors import UserError
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

    def run(self, questions: Sequence[Question]) -> list[Prompt | BadRow]:
        """One prompt or bad row a question, in order; a prompt that is too long is a bad row, never cut."""
        results: list[Prompt | BadRow] = []
        texts = [self.template.render(question.text, question.system) for question in questions]
        for question, text, ids in zip(questions, texts, self.tokenizer.encode_batch(texts), strict=True):
            reason = self._problem(question, len(ids))
            if reason is None:
                results.append(Prompt(0, tuple(ids), text, question.gold, question.row, question.source))
            else:
                results.append(BadRow(question.row, reason, question.file))
        return results

    def _problem(self, question: Question, length: int) -> str | None:
        if length > self.settings.max_prompt_length:
            return f"the prompt has {length} tokens, over --max_prompt_length {self.settings.max_prompt_length}"
        if question.system and not self.template.takes_system:
            return (
                f"the row has a system message, which template {self.template.name} would lose; put {{system}} in, "
                "or leave it out of --map_keys"
            )
        if reason := gold_problem(question.gold, self.settings.verifiers):
            return f"the gold answer {question.gold[:80]!r} can be verified by nothing: {reason}"
        return None


_converter: Converter | None = None  # of a worker process


def _start_worker(settings: Conversion) -> None:
    global _converter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command's business; workers end with it
    _converter = settings.open()


def _run_in_worker(questions: Sequence[Question]) -> list[Prompt | BadRow]:
    assert _converter is not None
    return _converter.run(questions)


def convert_questions(
    converter: Converter, questions: Sequence[Question], workers: int = 1, log_interval: int = 0
) -> list[Prompt | BadRow]:
    """A prompt or a bad row for every question, in order. The result does not depend on the number of processes.

    Args: log_interval: rows between lines of progress; 0: a progress bar.
    """
    batches = [questions[start : start + _BATCH] for start in range(0, len(questions), _BATCH)]
    done: list[Prompt | BadRow] = []
    with tqdm(total=len(questions), unit="row", desc="tokenizing", disable=log_interval > 0) as progress:
        for results in _results(converter, batches, workers):
            before = len(done)
            done += results
            progress.update(len(results))
            if log_interval and len(done) // log_interval > before // log_interval:
                print(f"tokenized {len(done)} of {len(questions)} rows", flush=True)
    return _without_unsatisfied(done, questions, converter.settings, workers)


def _without_unsatisfied(
    results: Sequence[Prompt | BadRow], questions: Sequence[Question], settings: Conversion, workers: int
) -> list[Prompt | BadRow]:
    """With a bad row instead of every prompt whose gold answer a verifier finds right in no form."""
    if not settings.verifier_names:
        return list(results)
    # of questions with one gold answer and source, one is asked for all
    asked = {(result.gold, result.source): result.text for result in results if isinstance(result, Prompt)}
    tried = [Asked(gold, source, prompt) for (gold, source), prompt in asked.items()]
    unfound = unsatisfied(tried, settings.verifier_names, settings.verifier_timeout_s, workers)
    found = {(each.gold, each.source): ", ".join(names) for each, names in unfound.items()}
    return [
        BadRow(
            question.row,
            f"the gold answer {question.gold[:80]!r} is found right in no form by {found[result.gold, result.source]}",
            question.file,
        )
        if isinstance(result, Prompt) and (result.gold, result.source) in found
        else result
        for question, result in zip(questions, results, strict=True)
    ]


def _results(
    converter: Converter, batches: Sequence[Sequence[Question]], workers: int
) -> Iterator[list[Prompt | BadRow]]:
    if workers <= 1 or len(batches) <= 1:
        yield from map(converter.run, batches)
        return
    context = multiprocessing.get_context("spawn")  # tokenizers' threads do not survive a fork
    with context.Pool(min(workers, len(batches)), _start_worker, (converter.settings,)) as pool:
        yield from pool.imap(_run_in_worker, batches)


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


def sample(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """`count` prompts chosen by the seed, in their order."""
    if not 0 < count <= len(prompts):
        raise UserError(f"--sample {count}: there are {len(prompts)} usable rows to choose from")
    return [prompts[index] for index in sorted(np.random.default_rng(seed).permutation(len(prompts))[:count])]
