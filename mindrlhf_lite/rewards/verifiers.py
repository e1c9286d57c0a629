"""The built-in verifiers: (completions, golds) -> one Score each. Pure; a failing one is the runner's business."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mindrlhf_lite.rewards.extraction import (
    answer_block,
    as_number,
    has_think_answer_format,
    knight_statements,
    last_boxed,
    last_number,
    plain,
    same_answer,
)
from mindrlhf_lite.types import Outcome, Score

VerifierFunction = Callable[[Sequence[str], Sequence[str]], Sequence[Any]]


def _score(agrees: bool | None, right: float = 1.0, wrong: float = 0.0) -> Score:
    if agrees is None:
        return Score(wrong, Outcome.UNPARSED)
    return Score(right, Outcome.CORRECT) if agrees else Score(wrong, Outcome.WRONG)


def _last_number_agrees(text: str, gold: str) -> bool | None:
    value, gold_value = last_number(plain(text)), last_number(plain(gold))
    return None if value is None else value == gold_value


def accuracy_reward(completions: Sequence[str], golds: Sequence[str]) -> list[Score]:
    """1 if the last number (inside <answer> where there is one) equals the gold number, else 0."""
    return [_score(_last_number_agrees(answer_block(text) or text, gold)) for text, gold in zip(completions, golds, strict=True)]


def _boxed_agrees(text: str, gold: str) -> bool | None:
    boxed = last_boxed(text)
    return _last_number_agrees(text, gold) if boxed is None else same_answer(boxed, gold)


def qwen_accuracy_reward(completions: Sequence[str], golds: Sequence[str]) -> list[Score]:
    r"""1 if the last \boxed{} holds the gold answer, else 0; without a box the last number counts."""
    return [_score(_boxed_agrees(text, gold)) for text, gold in zip(completions, golds, strict=True)]


def format_reward(completions: Sequence[str], golds: Sequence[str]) -> list[Score]:
    """1 if the whole completion is <think>..</think><answer>..</answer>, else 0. Does not look at the answer."""
    return [_score(has_think_answer_format(text)) for text in completions]


def r1_accuracy_reward(completions: Sequence[str], golds: Sequence[str]) -> list[Score]:
    r"""1 if the answer is right, -1 if not or if there is none: the last \boxed{} inside <answer>, or the block's last number."""

    def agrees(text: str, gold: str) -> bool | None:
        block = answer_block(text)
        return None if block is None else _boxed_agrees(block, gold)

    return [_score(agrees(text, gold), wrong=-1.0) for text, gold in zip(completions, golds, strict=True)]


def math_reward(completions: Sequence[str], golds: Sequence[str]) -> list[Score]:
    """1 if math-verify finds the completion's answer equal to the gold (LaTeX: sets, intervals, expressions), else 0."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no timeout of its own
    scores = []
    for text, gold in zip(completions, golds, strict=True):
        # its own timeouts use SIGALRM; the runner's 10 s limit covers the call
        expected = parse(f"${gold}$", parsing_timeout=None) or parse(gold, parsing_timeout=None)
        if not expected:
            raise ValueError(f"math-verify cannot parse the gold answer {gold!r}")
        found = parse(text, parsing_timeout=None)
        scores.append(_score(verify(expected, found, timeout_seconds=None) if found else None))
    return scores


def kk_reward(completions: Sequence[str], golds: Sequence[str]) -> list[Score]:
    """Knights and knaves: 1 if the answer (inside <answer> where there is one) says of everybody in the gold, and of nobody else, what they are."""

    def agrees(text: str, gold: str) -> bool | None:
        said = knight_statements(answer_block(text) or text)
        return said == knight_statements(gold) if said else None

    return [_score(agrees(text, gold)) for text, gold in zip(completions, golds, strict=True)]


_COMMAND, _WORD = re.compile(r"\\[A-Za-z]+"), re.compile(r"[A-Za-z]{2,}")
_PROSE = 4  # so many words are no formula


def gold_problem(gold: str, kind: str = "math") -> str | None:
    """Why no verifier could ever find an answer equal to this gold, or None. kind: "math", or "statements" for kk_reward."""
    if kind == "statements":
        return None if knight_statements(gold) else "it says of nobody whether they are a knight or a knave"
    if as_number(plain(gold)) is not None or plain(gold).isalpha():  # a number, or one word, which is compared as text
        return None
    if len(_WORD.findall(_COMMAND.sub(" ", gold))) >= _PROSE:
        return "it is prose, which math-verify would take for a product of letters"
    if not re.search(r"\w", plain(gold)):
        return "there is neither a letter nor a digit in it"
    if not has_balanced_braces(gold):
        return "its braces, or the brackets of a root, do not match"
    from math_verify import parse

    if parse(f"${gold}$", raise_on_error=False) or parse(gold, raise_on_error=False):
        return None
    return "it is no number, and math-verify finds no LaTeX or expression in it"


def has_balanced_braces(latex: str) -> bool:
    """Whether every { has its }, escaped ones aside, and every \\sqrt[ its ]. Brackets alone need no partner: [0, 1) is an interval."""
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", latex):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0 and not re.search(r"\\sqrt\[[^\]]*$", latex)


@dataclass(frozen=True)
class Verifier:
    """A verifier by name. `judges_answer`: its outcomes are the run's reward/outcome counts."""

    name: str
    function: VerifierFunction
    judges_answer: bool = True


BUILT_IN: dict[str, Verifier] = {
    "accuracy_reward": Verifier("accuracy_reward", accuracy_reward),
    "qwen_accuracy_reward": Verifier("qwen_accuracy_reward", qwen_accuracy_reward),
    "format_reward": Verifier("format_reward", format_reward, judges_answer=False),
    "math_reward": Verifier("math_reward", math_reward),
    "kk_reward": Verifier("kk_reward", kk_reward),
    "r1_accuracy_reward": Verifier("r1_accuracy_reward", r1_accuracy_reward),
}


def find_verifier(name: str) -> Verifier:
    """A built-in by name, or a user's function by dotted path ("package.module.function").

    Raises:
        ValueError: neither exists; the reason is in the message.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ValueError(f"verifier {name!r} is unknown: use one of {', '.join(BUILT_IN)}, or the dotted path of your own function")
    if os.getcwd() not in sys.path:  # as `python script.py` in that folder would find it
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise ValueError(f"verifier {name!r} cannot be imported: {type(error).__name__}: {error}") from None
    if not callable(function):
        raise ValueError(f"verifier {name!r} is not callable")
    return Verifier(name, function)
