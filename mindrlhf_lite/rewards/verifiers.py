r"""Verifiers: score(completion, gold) -> Score, each with the range of its scores. Pure; time limits and failures are
the pool's and the runner's business.

The ones that judge answers differ in where the answer has to stand (final_answer.py); what agrees with the gold one is
the same for all (agreement.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
from mindrlhf_lite.rewards.judge_settings import JUDGE_REWARD
from mindrlhf_lite.rewards.knights import knight_statements
from mindrlhf_lite.rewards.other_toolkits import NEAREST, VERIFIERS
from mindrlhf_lite.rewards.own_functions import find_function
from mindrlhf_lite.rewards.reasoning import reasoning_gym_reward
from mindrlhf_lite.rewards.signatures import as_group_function
from mindrlhf_lite.rewards.sizes import LARGEST_REWARD
from mindrlhf_lite.types import CompletionView, FinishReason, Outcome, Score

ScoreFunction = Callable[..., Any]
ENVIRONMENT_REWARD, REASONING_GYM = "environment_reward", "reasoning_gym_reward"


@dataclass(frozen=True)
class Verifier:
    """A verifier by name.

    Example: Verifier("is_short", lambda completion, gold: completion.num_tokens < 100)
    """

    name: str
    function: ScoreFunction  # of one completion, or of a group (see `signatures`) where `is_own`
    minimum: float = 0.0  # what a failure counts as
    maximum: float = 1.0
    judges_answer: bool = True  # its outcomes are the run's reward/outcome counts
    # how much of a form it asks for besides the answer: 0 not known (a function of one's own), 1 a number anywhere, 2
    # an answer, 3 an answer inside tags
    strictness: int = 0
    is_own: bool = False  # a user's, in the one form that `signatures` gives all of them
    takes_group: bool = False  # it has to see all completions of a question
    limit_setting: str = "reward_config.verifier_timeout_s"  # of the time that a score may take

    def score(self, completion: CompletionView, gold: str) -> Score:
        """`scores` of one completion."""
        return self.scores([completion], [gold])[0]

    def scores(self, completions: Sequence[CompletionView], golds: Sequence[str]) -> list[Score]:
        """The function's scores, one a completion: a Score with a float in it, a number (or bool) as one that is
        correct if it is the largest that there is.

        Raises:
            ValueError: there are not as many, or one is no finite number, or lies outside the declared range.
        """
        if not self.is_own:
            return [self._as_score(self.function(*pair)) for pair in zip(completions, golds, strict=True)]
        values = list(self.function(completions, golds))
        if len(values) != len(completions):
            raise ValueError(f"the verifier returned {len(values)} scores of {len(completions)} completions")
        return [self._as_score(value) for value in values]

    def _as_score(self, value: Any) -> Score:
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
        is_full = math.isclose(number, self.maximum, rel_tol=1e-9, abs_tol=1e-9 * (self.maximum - self.minimum))
        return Score(number, Outcome.CORRECT if is_full else Outcome.WRONG)


def verifier(
    minimum: float = 0.0, maximum: float = 1.0, judges_answer: bool = True, whole_group: bool = False
) -> Callable[[ScoreFunction], ScoreFunction]:
    """Declares the range of a verifier's scores, and whether it judges the answer (and not, say, the format). Without
    it: 0 to 1, and it does. Only the maximum counts as correct, unless the verifier returns a `Score` that says more.
    With whole_group it takes all completions of a question at once, and returns a score for each.

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
        function.verifier_range = (minimum, maximum, judges_answer, whole_group)  # type: ignore[attr-defined]
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
    return _judged(number_agrees(final_answer(_text(completion), _is_cut(completion)), gold, completion.prompt))


def qwen_accuracy_reward(completion: CompletionView, gold: str) -> Score:
    r"""1 if the completion's answer agrees with the gold one, else 0: that of the last \boxed{}, else behind ####, "the
    answer is", or at the end.
    """
    return _judged(agrees(final_answer(_text(completion), _is_cut(completion)), gold, completion.prompt))


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
    return _judged(agrees(final_answer(block), gold, completion.prompt), wrong=-1.0)


def kk_reward(completion: CompletionView, gold: str) -> Score:
    """Knights and knaves: 1 if the answer (inside <answer> where there is one) says of everybody in the gold, and of
    nobody else, what they are.
    """
    part = answering_part(_text(completion))
    said = knight_statements(part) if part else {}
    return _judged(None if said == {} else said == knight_statements(gold))


def environment_reward(completion: CompletionView, gold: str) -> Score:
    """What the environment paid in all. Right where it says that the task is solved; where it says nothing, where it
    paid more than nothing.
    """
    episode = completion.episode
    if episode is None:
        return Score(0.0, Outcome.UNPARSED)
    is_right = episode.reward > 0 if episode.is_solved is None else episode.is_solved
    return Score(episode.reward, Outcome.CORRECT if is_right else Outcome.WRONG)


def _judge(completion: CompletionView, gold: str) -> Score:
    raise UserError(f"{JUDGE_REWARD} asks a server: name it in a run's configuration, with reward_config.judge")


BUILT_IN: dict[str, Verifier] = {
    "accuracy_reward": Verifier("accuracy_reward", accuracy_reward, strictness=1),
    "qwen_accuracy_reward": Verifier("qwen_accuracy_reward", qwen_accuracy_reward, strictness=2),
    "math_reward": Verifier("math_reward", qwen_accuracy_reward, strictness=2),  # another name of the same
    "r1_accuracy_reward": Verifier("r1_accuracy_reward", r1_accuracy_reward, minimum=-1.0, strictness=3),
    "format_reward": Verifier("format_reward", format_reward, judges_answer=False),
    "kk_reward": Verifier("kk_reward", kk_reward, strictness=2),
    REASONING_GYM: Verifier(REASONING_GYM, reasoning_gym_reward, strictness=2),
    ENVIRONMENT_REWARD: Verifier(ENVIRONMENT_REWARD, environment_reward, -LARGEST_REWARD, LARGEST_REWARD, strictness=4),
    # a run gives it to `RewardFunction` by itself; what goes wrong is not the completion's fault
    JUDGE_REWARD: Verifier(JUDGE_REWARD, _judge, is_own=True, limit_setting="reward_config.judge.timeout_s"),
    **{
        name: Verifier(name, function, minimum=least, judges_answer=strictness > 0, strictness=strictness)
        for name, (function, least, strictness) in VERIFIERS.items()
    },
}


def strictest(names: Sequence[str]) -> str:
    """The one of the verifiers that judge answers by which evaluations go: the strictest, of equal ones the first;
    where none judges answers, the first of all.
    """
    found = [find_verifier(name) for name in names]
    return max(found, key=lambda each: (each.judges_answer, each.strictness)).name


def find_verifier(name: str) -> Verifier:
    """A built-in by name, or a user's function (see `own_functions`, and `signatures` for how it is called).

    Raises:
        ValueError: neither exists, or it can be called in none of the ways; the reason is in the message.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name in NEAREST:
        raise UserError(f"verifier {name!r} is not there: nearest is {NEAREST[name]}")
    if "." not in name:
        raise UserError(
            f"verifier {name!r} is unknown: use one of {', '.join(BUILT_IN)}, or name your own function as "
            "FILE.py:function, or by its dotted path"
        )
    function = find_function(name, "verifier")
    minimum, maximum, judges_answer, whole_group = getattr(function, "verifier_range", (0.0, 1.0, True, False))
    of_group, takes_group = as_group_function(name, function, whole_group)
    return Verifier(name, of_group, minimum, maximum, judges_answer, is_own=True, takes_group=takes_group)
