r"""Answers that leave the work to the reader: "25 + 60" for what 25 + 60 is.

Its value is right, so a comparison of values pays it, and a policy that is trained on sums finds that out: SmolLM2
answered "25 + 60 equals" to every held-out sum, 100 % "right" (docs/reliability.md). What is refused has to be plain
arithmetic with a number of the question in it, or a formula that stands in the question as it is. \boxed{2^4} for 16,
and arithmetic on numbers that were worked out, are answers.
"""

from __future__ import annotations

import re

from mindrlhf_lite.rewards.numbers import parse_quantity
from mindrlhf_lite.rewards.plain_form import plain_form

_WORDS_BEHIND = re.compile(r"(?<=[\d)}%])\s*(?:=|\\text|[A-Za-z].*)?[\s=.]*$", re.DOTALL)
_PLAIN_ARITHMETIC = re.compile(r"(?:[\d\s+\-*/().,{}%$^=]|\\(?:times|cdot|div|ast|frac|left|right)(?![A-Za-z]))+")
_OPERATION = re.compile(r"[\d)}%]\s*(?:[-+*/]|\\(?:times|cdot|div|ast)(?![A-Za-z]))\s*[\d({\\$-]|[\d)}]\s*\(|\\frac")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_BLANKS = re.compile(r"[\s{}$\\]+|times|cdot")
_LEAST_DIGITS = 2  # of a formula that is looked for in the question: x or 5 may stand there by chance


def leaves_the_work(answer: str, question: str) -> bool:
    """Whether an answer, as a whole, is arithmetic of the question's that nobody has done. An empty question: no."""
    if not question:
        return False
    text = _WORDS_BEHIND.sub("", plain_form(answer))
    if "=" in text or parse_quantity(text) is not None or not _OPERATION.search(text):
        return False
    asked = plain_form(question)
    if _PLAIN_ARITHMETIC.fullmatch(text) and set(_NUMBER.findall(text)) & set(_NUMBER.findall(asked)):
        return True
    bare = _BLANKS.sub("", text)
    return sum(map(str.isdigit, bare)) >= _LEAST_DIGITS and bare in _BLANKS.sub("", asked)
