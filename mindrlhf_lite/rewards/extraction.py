"""Finding the answer in a completion, and comparing answers as numbers.

Leaves symbolic mathematics to math-verify (`math_reward`); this module knows numbers, simple fractions and plain text.
"""

from __future__ import annotations

import re
from fractions import Fraction

# an optional sign and currency, digits with or without thousands separators, an optional fraction part or denominator
_NUMBER = re.compile(r"(?<![\w.])([-+]?)\s?[$€£]?\s?([-+]?)(\d{1,3}(?:,\d{3})+(?!\d)|\d+)?((?:(?<=\d)\.|(?<!\d)\.)\d+)?(?:\s?/\s?(\d+(?:\.\d+)?))?")
_ANSWER_BLOCK = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FORMAT = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_FRAC = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")


def numbers(text: str) -> list[Fraction]:
    """All numbers of the text, in order: "$1,234.50." gives 1234.5; "3/4" gives 3/4; "10-4" gives 10 and 4."""
    found = []
    for match in _NUMBER.finditer(text):
        sign, inner_sign, whole, decimals, denominator = match.groups()
        if whole is None and decimals is None:
            continue
        value = Fraction((whole or "0").replace(",", "") + (decimals or ""))
        if denominator and Fraction(denominator) != 0:
            value /= Fraction(denominator)
        found.append(-value if "-" in (sign + inner_sign) else value)
    return found


def last_number(text: str) -> Fraction | None:
    """The last number of the text, or None."""
    found = numbers(text)
    return found[-1] if found else None


def answer_block(text: str) -> str | None:
    """The content of the last <answer>...</answer>, or None."""
    blocks = _ANSWER_BLOCK.findall(text)
    return blocks[-1] if blocks else None


def has_think_answer_format(text: str) -> bool:
    """Whether the whole text is one <think>..</think> followed by one <answer>..</answer>, white space aside."""
    once = all(text.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    return once and _FORMAT.fullmatch(text) is not None


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete \boxed{...}, braces balanced, or None."""
    end = len(text)
    while (start := text.rfind("\\boxed{", 0, end)) >= 0:
        depth = 0
        for index in range(start + len("\\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[index], 0)
            if depth == 0:
                return text[start + len("\\boxed{") : index]
        end = start
    return None


def plain(latex: str) -> str:
    r"""Strips LaTeX dress that does not change a number: \$, \%, {,}, \text{..}, \frac{a}{b}, spacing commands."""
    text = _FRAC.sub(r"\1/\2", latex)
    text = _TEXT.sub(r" \1", text)
    for old, new in (("{,}", ","), ("\\!", ""), ("\\,", ""), ("\\ ", " "), ("\\$", "$"), ("\\%", "%"), ("^\\circ", ""), ("\\left", ""), ("\\right", "")):
        text = text.replace(old, new)
    return text.strip().rstrip(".").strip("$ ")


def same_answer(candidate: str, gold: str) -> bool | None:
    """Whether two short answers agree: as numbers where the gold is one, else as text. None: no answer can be read from `candidate`."""
    gold_value, value = last_number(plain(gold)), last_number(plain(candidate))
    if gold_value is not None:
        return None if value is None else value == gold_value
    text = plain(candidate).replace(" ", "").lower()
    return None if not text else text == plain(gold).replace(" ", "").lower()
