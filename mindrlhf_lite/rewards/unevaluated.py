r"""Answers that leave the work to the reader: "25 + 60" for what 25 + 60 is.

Its value is right, so a comparison of values pays it, and a policy that is trained on sums finds that out: SmolLM2
answered "25 + 60 equals" to every held-out sum, 100 % "right" (docs/reliability.md). Where a number is asked for and
the question is known, plain arithmetic is no answer, nor is a formula that stands in the question as it is. Powers,
roots and fractions that do not stand there are, and so is whatever is written as the gold answer is.
"""

from __future__ import annotations

import re

from mindrlhf_lite.rewards.numbers import parse_quantity
from mindrlhf_lite.rewards.plain_form import plain_form

_WORDS_BEHIND = re.compile(r"(?<=[\d)}%])\s*(?:=|[A-Za-z]{2,}.*)?[\s=.]*$", re.DOTALL)
_PLAIN_ARITHMETIC = re.compile(r"(?:[\d\s+\-*/().,{}%$]|\\(?:times|cdot|div|ast|frac|left|right)(?![A-Za-z]))+")
_OPERATION = re.compile(r"[\d)}%]\s*(?:[-+*/]|\\(?:times|cdot|div|ast)(?![A-Za-z]))|\)\s*\(|\d\s*\(")
_BLANKS = re.compile(r"[\s{}$\\]+|times|cdot")
_LEAST_DIGITS = 2  # of a formula that is looked for in the question: 5 may stand there by chance


def leaves_the_work(answer: str, gold: str, question: str) -> bool:
    """Whether an answer, as a whole, is arithmetic that nobody has done. An empty question, which is not known: no."""
    if not question or parse_quantity(gold) is None:
        return False
    text = _WORDS_BEHIND.sub("", plain_form(answer)).rpartition("=")[2].strip()
    bare, wanted = _BLANKS.sub("", text), _BLANKS.sub("", plain_form(gold))
    if bare == wanted or text.isdigit():
        return False
    if parse_quantity(text) is None and _PLAIN_ARITHMETIC.fullmatch(text) and _OPERATION.search(text):
        return True
    is_formula = any(not (character.isdigit() or character in ".,-+%") for character in bare)
    is_long = sum(map(str.isdigit, bare)) >= _LEAST_DIGITS
    return is_formula and is_long and bare in _BLANKS.sub("", plain_form(question))
