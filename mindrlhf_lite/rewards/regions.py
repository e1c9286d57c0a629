r"""Sets of real numbers, written as intervals or as inequalities: (-2, 1), -2 < x < 1, x < 2 or x > 3, x \ne 0,
|x| < 2.

Only what has ends that are numbers is read; the brackets of one interval could be those of a pair, so two of those are
not compared here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from mindrlhf_lite.rewards.exact import DIGITS, UNDEFINED, as_mpmath, is_close, letters, value_of
from mindrlhf_lite.rewards.formulas import bounded_formula
from mindrlhf_lite.rewards.numbers import parse_quantity

_LONGEST = 200
_RELATION = re.compile(r"(<|>|\\(?:leqslant|geqslant|leq?|geq?|lt|gt|neq?)(?![A-Za-z])|≤|≥)")
_OF_SIGN = {
    "<": "<",
    ">": ">",
    "lt": "<",
    "gt": ">",
    "le": "<=",
    "leq": "<=",
    "leqslant": "<=",
    "ge": ">=",
    "geq": ">=",
    "geqslant": ">=",
    "ne": "!=",
    "neq": "!=",
}
_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
_UNION = re.compile(r"\\cup(?![A-Za-z])|\s*,?\s*(?:\bor\b|\\vee(?![A-Za-z])|\\lor(?![A-Za-z])|或者?|または|또는)\s*")
_BOTH = re.compile(r"\s*,?\s*(?:\band\b|\\wedge(?![A-Za-z])|\\land(?![A-Za-z])|且|かつ|그리고)\s*|\s*,\s*(?:\\text)?")
_INTERVAL = re.compile(r"\s*([(\[\]])\s*([^()\[\]]*(?:\([^()]*\)[^()\[\],]*)*),\s*(.*?)\s*([)\[\]])\s*")
_MEMBER = re.compile(r"^\s*(\\?[A-Za-z]+(?:_\w)?)\s*\\in(?![A-Za-z])\s*")
_BUILDER = re.compile(
    r"^\\\{\s*(\\?[A-Za-z]+)\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\||:|\\mid(?![A-Za-z]))\s*(.*)\\\}$"
)
_VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\{?\w\}?)?")
_ABSOLUTE = re.compile(r"\|\s*([A-Za-z])\s*(?:([-+])\s*([^|]+?)\s*)?\|")
_WITHOUT = re.compile(r"\\mathbb\s*\{?\s*R\s*\}?\s*(?:\\setminus|\\backslash|-|\\)\s*\\\{([^{}]*)\\\}")
_ALL = re.compile(r"(?:\\mathbb\s*\{?\s*R\s*\}?|\\R|ℝ|(?:all )?reals?|all real numbers?|the real numbers?)", re.I)

End = Any  # a Fraction, an mpmath number, or an infinite float


@dataclass(frozen=True)
class Interval:
    """Example: of 0 <= x < 1, Interval(Fraction(0), True, Fraction(1), False)."""

    low: End
    has_low: bool
    high: End
    has_high: bool


@dataclass(frozen=True)
class Region:
    """A union of intervals, in order, apart from each other. Example: of x > 3, Region("x", (Interval(3, False, inf,
    False),), is_brackets=False).
    """

    variable: str
    pieces: tuple[Interval, ...]
    is_brackets: bool  # one interval in brackets, which may as well be a pair

    def equals(self, gold: Region) -> bool:
        """Whether it has the same numbers, of the same variable where both name one."""
        if self.variable and gold.variable and self.variable != gold.variable:
            return False
        return len(self.pieces) == len(gold.pieces) and all(map(_same_interval, self.pieces, gold.pieces))


def _same_interval(mine: Interval, other: Interval) -> bool:
    flags = (mine.has_low, mine.has_high) == (other.has_low, other.has_high)
    return flags and _same_end(mine.low, other.low) and _same_end(mine.high, other.high)


def _same_end(mine: End, other: End) -> bool:
    if isinstance(mine, float) or isinstance(other, float):  # infinite
        return bool(mine == other)
    return is_close(mine, other)


def same_region(candidate: str, gold: str) -> bool | None:
    """Whether two plain forms are the same set of numbers. None: one of them is no such set, or both are single
    intervals in brackets (or pairs).
    """
    expected = _region_of_gold(gold)
    found = region(candidate) if expected is not None else None
    if expected is None or found is None or (expected.is_brackets and found.is_brackets):
        return None
    return found.equals(expected)


@lru_cache(maxsize=1024)
def _region_of_gold(gold: str) -> Region | None:
    return region(gold)


def region(text: str) -> Region | None:
    """The set of real numbers that the whole plain form is, or None."""
    if len(text) > _LONGEST:
        return None
    variable, text = "", text.strip()
    if builder := _BUILDER.match(text):
        variable, text = builder[1], builder[2].strip()
    if member := _MEMBER.match(text):
        variable, text = member[1], text[member.end() :]
    if _ALL.fullmatch(text):
        return Region(variable, (Interval(-math.inf, False, math.inf, False),), False)
    if without := _WITHOUT.fullmatch(text):
        return _without_points(variable, without[1])
    if not _RELATION.search(text) and not ("," in text and re.match(r"\s*[(\[\]]", text)):
        return None
    found: list[Interval] = []
    parts = _UNION.split(text)
    for part in parts:
        read = _conjunction(part)
        if read is None or (variable and read[0] and read[0] != variable):
            return None
        variable, pieces = read[0] or variable, read[1]
        found += pieces
    if len(parts) > 1 and not _RELATION.search(text) and "\\cup" not in text:
        return None  # (1, 2) or (3, 4) are pairs
    is_brackets = len(parts) == 1 and not _RELATION.search(text)
    return Region(variable, tuple(_merged(found)), is_brackets)


def _without_points(variable: str, points: str) -> Region | None:
    """All numbers but a few: those between them."""
    read = [_end(point) for point in points.split(",")]
    ends = [end for end in read if isinstance(end, Fraction)]
    if len(ends) < len(read):
        return None
    bounds = [-math.inf, *sorted(ends), math.inf]
    pieces = [Interval(low, False, high, False) for low, high in zip(bounds, bounds[1:], strict=False) if low != high]
    return Region(variable, tuple(pieces), False)


def _conjunction(text: str) -> tuple[str, list[Interval]] | None:
    """What "x > 1 and x < 2", "0 < x < 1" or "(1, 2]" says: its variable, or "", and the intervals."""
    if (piece := _interval(text)) is not None:
        return "", [piece]
    statements = [part for part in _BOTH.split(text) if part and part.strip()]
    variable, pieces, by_comma = "", [Interval(-math.inf, False, math.inf, False)], "," in text
    apart: list[Interval] = []
    for statement in statements:
        read = _inequality(statement)
        if read is None or (variable and read[0] != variable):
            return None
        variable = read[0]
        apart += read[1]
        pieces = [both for one in pieces for two in read[1] if (both := _common(one, two)) is not None]
    if not pieces and by_comma and len(statements) == 2:  # "x < 2, x > 3" means either
        return variable, apart
    return (variable, pieces) if statements and pieces else None


def _interval(text: str) -> Interval | None:
    match = _INTERVAL.fullmatch(text)
    if match is None:
        return None
    low, high = _end(match[2]), _end(match[3])
    if low is None or high is None or not _less(low, high):
        return None
    return _interval_of(low, match[1] == "[", high, match[4] == "]")


def _interval_of(low: End, has_low: bool, high: End, has_high: bool) -> Interval:
    return Interval(low, has_low and not _is_infinite(low), high, has_high and not _is_infinite(high))


def _inequality(text: str) -> tuple[str, list[Interval]] | None:
    """Of "-2 < x", "0 < x <= 1", "x != 3" or "|x - 1| < 2": the variable, and the intervals."""
    sides = _RELATION.split(text)
    signs = [_OF_SIGN["".join(filter(str.isalpha, sign)) or sign] for sign in sides[1::2]]
    terms = [side.strip() for side in sides[::2]]
    if len(signs) == 1:
        left, sign, right = terms[0], signs[0], terms[1]
        if not _is_variable(left):
            left, sign, right = right, _TURNED[sign], left
        end = _end(right)
        return None if end is None else _one_sided(left, sign, end)
    if len(signs) == 2 and signs[0][0] == signs[1][0] != "!" and _VARIABLE.fullmatch(terms[1]):
        ends = [_end(terms[0]), _end(terms[2])]
        closed = [sign[-1] == "=" for sign in signs]
        if signs[0][0] == ">":
            ends.reverse()
            closed.reverse()
        if None in ends or not _less(*ends):
            return None
        return terms[1], [_interval_of(ends[0], closed[0], ends[1], closed[1])]
    return None


def _is_variable(text: str) -> bool:
    return (_VARIABLE.fullmatch(text) is not None and text not in ("e", "i", "\\pi", "\\infty")) or (
        _ABSOLUTE.fullmatch(text) is not None
    )


def _one_sided(left: str, sign: str, end: End) -> tuple[str, list[Interval]] | None:
    absolute = _ABSOLUTE.fullmatch(left)
    if absolute is not None:
        return _absolute(absolute, sign, end)
    if not _is_variable(left):
        return None
    below = Interval(-math.inf, False, end, sign == "<=")
    above = Interval(end, sign == ">=", math.inf, False)
    pieces = {"<": [below], "<=": [below], ">": [above], ">=": [above], "!=": [below, above]}
    return left, pieces[sign]


def _absolute(absolute: re.Match[str], sign: str, end: End) -> tuple[str, list[Interval]] | None:
    shift = _end(absolute[3]) if absolute[3] else Fraction(0)
    if not isinstance(shift, Fraction) or not isinstance(end, Fraction) or end <= 0 or sign == "!=":
        return None
    middle = shift if absolute[2] == "-" else -shift
    low, high, has = middle - end, middle + end, sign[-1] == "="
    if sign[0] == "<":
        return absolute[1], [Interval(low, has, high, has)]
    return absolute[1], [Interval(-math.inf, False, low, has), Interval(high, has, math.inf, False)]


def _end(text: str | None) -> End | None:
    """The real number that the text is, or an infinite one, or None."""
    text = (text or "").strip()
    infinite = re.fullmatch(r"([-+]?)\s*\\infty", text)
    if infinite:
        return -math.inf if infinite[1] == "-" else math.inf
    if (quantity := parse_quantity(text)) is not None and not quantity.is_percent:
        return quantity.value
    expression = bounded_formula(text) if text and "=" not in text and "," not in text else None
    if expression is None or not hasattr(expression, "free_symbols") or letters(expression):
        return None
    import mpmath

    try:
        with mpmath.workdps(DIGITS):
            value = value_of(expression)
    except UNDEFINED:
        return None
    return value if isinstance(value, Fraction) else (value if mpmath.im(value) == 0 else None)


def _is_infinite(end: End) -> bool:
    return isinstance(end, float)


def _less(low: End, high: End) -> bool:
    import mpmath

    if isinstance(low, float) or isinstance(high, float):
        return (low if isinstance(low, float) else 0) < (high if isinstance(high, float) else 0)
    with mpmath.workdps(DIGITS):
        return bool(mpmath.re(as_mpmath(low)) < mpmath.re(as_mpmath(high))) and not is_close(low, high)


def _common(one: Interval, two: Interval) -> Interval | None:
    """The numbers that are in both."""
    low, has_low = (two.low, two.has_low) if _less(one.low, two.low) else (one.low, one.has_low)
    if _same_end(one.low, two.low):
        has_low = one.has_low and two.has_low
    high, has_high = (one.high, one.has_high) if _less(one.high, two.high) else (two.high, two.has_high)
    if _same_end(one.high, two.high):
        has_high = one.has_high and two.has_high
    return Interval(low, has_low, high, has_high) if _less(low, high) else None


def _merged(pieces: list[Interval]) -> list[Interval]:
    """In order, those that touch as one."""
    ordered: list[Interval] = []
    for piece in pieces:
        place = next((index for index, other in enumerate(ordered) if _less(piece.low, other.low)), len(ordered))
        ordered.insert(place, piece)
    merged: list[Interval] = []
    for piece in ordered:
        last = merged[-1] if merged else None
        touches = last is not None and (
            _less(piece.low, last.high) or (_same_end(piece.low, last.high) and (piece.has_low or last.has_high))
        )
        if last is None or not touches:
            merged.append(piece)
        elif _less(last.high, piece.high):
            merged[-1] = Interval(last.low, last.has_low, piece.high, piece.has_high)
    return merged
