"""Finding the answer in a completion, and comparing answers as numbers.

Leaves symbolic mathematics to math-verify (`math_reward`); this module knows numbers, simple fractions and plain text.
"""

from __future__ import annotations

import re
from fractions import Fraction

# an optional sign and currency, digits with or without thousands separators, an optional fraction part or denominator
_NUMBER = re.compile(
    r"(?<![\w.])([-+]?)\s?[$\u20ac\u00a3]?\s?([-+]?)"
    r"(?:(\d{1,3}(?:,\d{3})+(?!\d)|\d+)(\.\d+)?|(\.\d+))"
    r"(?:\s?/\s?(\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?))?"
)
_FORMAT = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_FRAC = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_STATEMENT = re.compile(r"\b([A-Z]\w+) is (?:actually )?an? (knight|knave)\b", re.IGNORECASE)
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")


def numbers(text: str) -> list[Fraction]:
    """All numbers of the text, in order: "$1,234.50." gives 1234.5; "3/4" gives 3/4; "10-4" gives 10 and 4."""
    found = []
    for match in _NUMBER.finditer(text):
        sign, inner_sign, whole, decimals, bare_decimals, denominator = match.groups()
        value = Fraction((whole or "0").replace(",", "") + (decimals or bare_decimals or ""))
        divisor = Fraction((denominator or "1").replace(",", ""))
        if divisor != 0:
            value /= divisor
        found.append(-value if "-" in (sign + inner_sign) else value)
    return found


def last_number(text: str) -> Fraction | None:
    """The last number of the text, or None."""
    found = numbers(text)
    return found[-1] if found else None


def answer_block(text: str) -> str | None:
    """The content of the last <answer>...</answer>, or None."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return text[start + len("<answer>") : end] if start >= 0 else None


def has_think_answer_format(text: str) -> bool:
    """Whether the whole text is one <think>..</think> followed by one <answer>..</answer>, white space aside."""
    once = all(text.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    return once and _FORMAT.fullmatch(text) is not None


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete \boxed{...}, braces balanced, or None. One pass over the text."""
    opened: list[int] = []  # content starts of open braces; only boxes are kept as candidates
    last: tuple[int, int] | None = None
    for index, character in enumerate(text):
        if character == "{":
            opened.append(index + 1 if text.endswith("\\boxed", 0, index) else -1)
        elif character == "}" and opened:
            start = opened.pop()
            if start >= 0 and (last is None or start > last[0]):
                last = (start, index)
    return None if last is None else text[last[0] : last[1]]


def plain(latex: str) -> str:
    r"""Strips LaTeX dress that does not change a number: \$, \%, {,}, \text{..}, \frac{a}{b}, spacing commands."""
    text = _FRAC.sub(r"\1/\2", latex)
    text = _TEXT.sub(r" \1", text)
    for old, new in (("{,}", ","), ("\\!", ""), ("\\,", ""), ("\\ ", " "), ("\\$", "$"), ("\\%", "%"), ("^\\circ", ""), ("\\left", ""), ("\\right", "")):
        text = text.replace(old, new)
    return text.strip().rstrip(".").strip("$ ")


def as_number(text: str) -> Fraction | None:
    """The number that the whole text is, a unit or percent sign behind it aside ("18 dollars", "$5", "50%"), or None ("2x+1", "2\\pi")."""
    match = _NUMBER.match(text)
    if match is None or not re.fullmatch(r"\s*(?:%|(?:\s[A-Za-z]+)*)\s*\.?", text[match.end() :]):
        return None
    return last_number(match.group())


def same_answer(candidate: str, gold: str) -> bool | None:
    """Whether two short answers agree: as numbers where the whole gold is one, else as text. None: no answer can be read from `candidate`."""
    candidate, gold = plain(candidate), plain(gold)
    gold_value = as_number(gold)
    if gold_value is not None:
        value = last_number(candidate)
        return None if value is None else value == gold_value
    text = candidate.replace(" ", "").lower()
    return None if not text else text == gold.replace(" ", "").lower()


def knight_statements(text: str) -> dict[str, str]:
    """Who is what, of a text that says it: "(1) Zoey is a knight" gives {"zoey": "knight"}; the last word on somebody counts."""
    return {name.lower(): role.lower() for name, role in _STATEMENT.findall(text)}
