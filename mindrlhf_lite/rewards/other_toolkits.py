r"""Verifiers of MindRLHF and MindSpeed-RL under their names, for configurations that bring them.

What they look for and what they return are those toolkits'; whether an answer is right is decided as everywhere here
(`rewards.agreement`), which reads more forms than a comparison of strings. Whoever starts anew takes
qwen_accuracy_reward and format_reward.
"""

from __future__ import annotations

import re

from mindrlhf_lite.rewards.agreement import agrees, same_answer
from mindrlhf_lite.rewards.boxes import last_boxed
from mindrlhf_lite.rewards.final_answer import Answer, final_answer, with_opened_thought
from mindrlhf_lite.rewards.unevaluated import leaves_the_work
from mindrlhf_lite.types import CompletionView, FinishReason, Outcome, Score

_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>\s*", re.DOTALL)
_FORMAT_WITH_BOX = re.compile(r"<think>.*</think>.*<answer>.*\\boxed\{.*\}.*</answer>\s*", re.DOTALL)
_IN_ORDER = ("<think>", "</think>", "<answer>", "\\boxed{", "</answer>")
_ANSWER_LINE = re.compile(r"answer\s*:\s*([^\n]+)", re.IGNORECASE)
_LAST_CHARACTERS = 300  # that acc_for_dapo and math_dapo_reward look at
_STEP = re.compile(r"Step \d+:|\A\d+\.|\n-|\n\*|\b(?:First|Second|Next|Finally),")
_ENOUGH_STEPS = 3


def _scored(verdict: bool | None, right: float, wrong: float, unread: float) -> Score:
    if verdict is None:
        return Score(unread, Outcome.UNPARSED)
    return Score(right, Outcome.CORRECT) if verdict else Score(wrong, Outcome.WRONG)


def _text(completion: CompletionView) -> str:
    return with_opened_thought(completion.text, completion.prompt)


def _boxed_agrees(text: str, gold: str, question: str) -> bool | None:
    content = last_boxed(text)
    if content is None or not content.strip():
        return None
    return not leaves_the_work(content, gold, question) and same_answer(content, gold)


def math_17k_acc(completion: CompletionView, gold: str) -> Score:
    r"""1 if the last \boxed{} holds the gold answer, else 0; tags do not matter."""
    return _scored(_boxed_agrees(completion.text, gold, completion.prompt), 1.0, 0.0, 0.0)


def acc(completion: CompletionView, gold: str) -> Score:
    """1 if the answer is right, -0.5 if it is wrong, -1 if there is none or no box."""
    if "boxed" not in completion.text:
        return Score(-1.0, Outcome.UNPARSED)
    is_cut = completion.finish_reason is FinishReason.LENGTH
    return _scored(agrees(final_answer(_text(completion), is_cut), gold, completion.prompt), 1.0, -0.5, -1.0)


def base_acc(completion: CompletionView, gold: str) -> Score:
    r"""1 if the completion is <think>..</think>..<answer>.. \boxed{} ..</answer> and the box right, else 0."""
    if _FORMAT_WITH_BOX.fullmatch(_text(completion)) is None:
        return Score(0.0, Outcome.UNPARSED)
    return math_17k_acc(completion, gold)


def acc_for_dapo(completion: CompletionView, gold: str) -> Score:
    """1 if the last "Answer: ..." of the last 300 characters is right, else -1."""
    lines = _ANSWER_LINE.findall(completion.text[-_LAST_CHARACTERS:])
    verdict = (
        agrees(Answer(lines[-1].strip().strip("*$ ").rstrip("."), False), gold, completion.prompt) if lines else None
    )
    return _scored(verdict, 1.0, -1.0, -1.0)


def format(completion: CompletionView, gold: str) -> Score:
    """1 if the completion is <think>..</think> and <answer>..</answer>, else 0."""
    return _scored(_FORMAT.fullmatch(_text(completion)) is not None, 1.0, 0.0, 0.0)


def strict_format(completion: CompletionView, gold: str) -> Score:
    r"""1 if each of the four tags and \boxed{} stands once, in order, and nothing around them, else -0.5."""
    text = _text(completion).strip()
    places = [text.find(each) for each in _IN_ORDER]
    is_right = (
        all(text.count(each) == 1 for each in _IN_ORDER)
        and places == sorted(places)
        and text.startswith("<think>")
        and text.endswith("</answer>")
    )
    return _scored(is_right, 1.0, -0.5, -0.5)


def step(completion: CompletionView, gold: str) -> Score:
    """A third for every sign of a step ("Step 1:", a list item, "First,"), at most 1."""
    count = len(_STEP.findall(completion.text))
    return Score(min(1.0, count / _ENOUGH_STEPS), Outcome.CORRECT if count >= _ENOUGH_STEPS else Outcome.WRONG)


# name: (function, least score, strictness as of `Verifier`; 0: it does not judge the answer)
VERIFIERS = {
    "math_17k_acc": (math_17k_acc, 0.0, 2),
    "acc_for_ppo": (math_17k_acc, 0.0, 2),
    "acc": (acc, -1.0, 2),
    "base_acc": (base_acc, 0.0, 3),
    "math_verify_reward": (base_acc, 0.0, 3),
    "acc_for_dapo": (acc_for_dapo, -1.0, 2),
    "math_dapo_reward": (acc_for_dapo, -1.0, 2),
    "format": (format, 0.0, 0),
    "strict_format": (strict_format, -0.5, 0),
    "step": (step, 0.0, 0),
    "reasoning_steps": (step, 0.0, 0),
}
# what others have and this toolkit does not: the nearest
NEAREST = {
    "base_deepscaler_reward": "qwen_accuracy_reward",
    "cot_deepscaler_reward": "r1_accuracy_reward",
    "reward_func_from_jiaoda": "qwen_accuracy_reward",
    "strict_acc": "base_acc",
    "math_acc": "math_17k_acc",
}
