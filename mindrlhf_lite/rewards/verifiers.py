r"""Verifiers: score(completion, gold) -> Score, each with the range of its scores. Pure; time limits and failures are
the pool's and the runner's business.

The ones that judge answers differ in where the answer has to stand (final_answer.py); what agrees with the gold one is
the same for all (agreement.py).
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.agreement import agrees, number_agrees
from mindrlhf_lite.rewards.final_answer import (
    answer_block,
    answering_part,
    final_answer,
    has_think_answer_format,
    with_opened_thought,
    without_thought,
)
from mindrlhf_lite.rewards.knights import knight_statements
from mindrlhf_lite.rewards.other_toolkits import NEAREST, VERIFIERS
from mindrlhf_lite.types import CompletionView, FinishReason, Outcome, Score

ScoreFunction = Callable[[CompletionView, str], Any]


@dataclass(frozen=True)
class Verifier:
    """A verifier by name.

    Example: Verifier("is_short", lambda completion, gold: completion.num_tokens < 100)
    """

    name: str
    function: ScoreFunction
    minimum: float = 0.0  # what a failure counts as
    maximum: float = 1.0
    judges_answer: bool = True  # its outcomes are the run's reward/outcome counts

    def score(self, completion: CompletionView, gold: str) -> Score:
        """The function's score: a Score with a float in it, a number (or bool) as one that is correct if positive.

        Raises:
            ValueError: it is no finite number, or lies outside the declared range.
        """
        value = self.function(completion, gold)
        number = float(value.value if isinstance(value, Score) else value)
        if not math.isfinite(number):
            raise ValueError(f"the verifier returned {value!r}")
        if not self.minimum <= number <= self.maximum:
            raise ValueError(
                f"the verifier returned {number:g}, outside its range {self.minimum:g} to {self.maximum:g}: "
                "declare it with @verifier(minimum=..., maximum=...)"
            )
        if isinstance(value, Score):
            if not isinstance(value.outcome, Outcome):
                raise ValueError(f"the verifier returned the outcome {value.outcome!r}, which is no Outcome")
            return Score(number, value.outcome)
        return Score(number, Outcome.CORRECT if number > 0 else Outcome.WRONG)


def verifier(
    minimum: float = 0.0, maximum: float = 1.0, judges_answer: bool = True
) -> Callable[[ScoreFunction], ScoreFunction]:
    """Declares the range of a verifier's scores, and whether it judges the answer (and not, say, the format). Without
    it: 0 to 1, and it does.

    Example:
        @verifier(minimum=-1.0, maximum=1.0)
        def my_reward(completion, gold): ...
    """
    if not (math.isfinite(minimum) and math.isfinite(maximum) and minimum < maximum):
        raise UserError(
            f"@verifier(minimum={minimum}, maximum={maximum}): two finite numbers are needed, the first less "
            "than the second"
        )

    def declare(function: ScoreFunction) -> ScoreFunction:
        function.verifier_range = (minimum, maximum, judges_answer)  # type: ignore[attr-defined]
        return function

    return declare


def _judged(verdict: bool | None, right: float = 1.0, wrong: float = 0.0) -> Score:
    if verdict is None:
        return Score(wrong, Outcome.UNPARSED)
    return Score(right, Outcome.CORRECT) if verdict else Score(wrong, Outcome.WRONG)


def _is_cut(completion: CompletionView) -> bool:
    return completion.finish_reason is FinishReason.LENGTH


def _text(completion: CompletionView) -> str:
    return with_opened_thought(completion.text, completion.prompt)


def accuracy_reward(completion: CompletionView, gold: str) -> Score:
    """1 if the number that the completion ends up with is the gold number, else 0. For data sets whose answers are
    numbers; boxes are read too.
    """
    return _judged(number_agrees(final_answer(_text(completion), _is_cut(completion)), gold))


def qwen_accuracy_reward(completion: CompletionView, gold: str) -> Score:
    r"""1 if the completion's answer agrees with the gold one, else 0: that of the last \boxed{}, else behind ####, "the
    answer is", or at the end.
    """
    return _judged(agrees(final_answer(_text(completion), _is_cut(completion)), gold))


def format_reward(completion: CompletionView, gold: str) -> Score:
    """1 if the whole completion is <think>..</think><answer>..</answer> with an answer in it, else 0. Does not look at
    the answer. A <think> that the prompt ends with counts as the completion's.
    """
    return _judged(has_think_answer_format(_text(completion)))


def r1_accuracy_reward(completion: CompletionView, gold: str) -> Score:
    r"""1 if the answer inside <answer> is right, -1 if not or if there is none: its last \boxed{}, or all of it."""
    part = without_thought(_text(completion))
    block = None if part is None else answer_block(part)
    if block is None or not block.strip():
        return _judged(None, wrong=-1.0)
    return _judged(agrees(final_answer(block), gold), wrong=-1.0)


def kk_reward(completion: CompletionView, gold: str) -> Score:
    """Knights and knaves: 1 if the answer (inside <answer> where there is one) says of everybody in the gold, and of
    nobody else, what they are.
    """
    part = answering_part(_text(completion))
    said = knight_statements(part) if part else {}
    return _judged(None if said == {} else said == knight_statements(gold))


BUILT_IN: dict[str, Verifier] = {
    "accuracy_reward": Verifier("accuracy_reward", accuracy_reward),
    "qwen_accuracy_reward": Verifier("qwen_accuracy_reward", qwen_accuracy_reward),
    "math_reward": Verifier("math_reward", qwen_accuracy_reward),  # another name of the same
    "r1_accuracy_reward": Verifier("r1_accuracy_reward", r1_accuracy_reward, minimum=-1.0),
    "format_reward": Verifier("format_reward", format_reward, judges_answer=False),
    "kk_reward": Verifier("kk_reward", kk_reward),
    **{
        name: Verifier(name, function, minimum=least, judges_answer=judges)
        for name, (function, least, judges) in VERIFIERS.items()
    },
}


def find_verifier(name: str) -> Verifier:
    """A built-in by name, or a user's function by dotted path ("package.module.function").

    Raises:
        ValueError: neither exists, or it cannot be called with a completion and a gold answer; the reason is in the
            message.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, _, attribute = name.rpartition(".")
    if name in NEAREST:
        raise UserError(f"verifier {name!r} is not there: nearest is {NEAREST[name]}")
    if not module:
        raise UserError(
            f"verifier {name!r} is unknown: use one of {', '.join(BUILT_IN)}, or the dotted path of your own function"
        )
    if os.getcwd() not in sys.path:  # as `python script.py` in that folder would find it
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise UserError(f"verifier {name!r} cannot be imported: {type(error).__name__}: {error}") from None
    if not callable(function):
        raise UserError(f"verifier {name!r} is not callable")
    _check_signature(name, function)
    minimum, maximum, judges_answer = getattr(function, "verifier_range", (0.0, 1.0, True))
    return Verifier(name, function, minimum, maximum, judges_answer)


def _check_signature(name: str, function: Callable[..., Any]) -> None:
    try:
        parameters = inspect.signature(function).parameters
        inspect.signature(function).bind(None, None)
    except ValueError:  # a builtin without a signature
        return
    except TypeError:
        raise UserError(f"verifier {name!r} must take (completion, gold); it takes ({', '.join(parameters)})") from None
    if next(iter(parameters), "") == "completions":
        raise UserError(
            f"verifier {name!r} takes ({', '.join(parameters)}): a verifier scores one completion, def "
            "f(completion, gold) -> number, with completion.text (docs/guides/r1_zero.md)"
        )
