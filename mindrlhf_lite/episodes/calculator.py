"""The tool `calculator`: exact arithmetic with whole numbers, decimals and fractions, without eval."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\*\*|//|[-+*/%^()])")
_LONGEST, _DEEPEST, _MOST_DIGITS = 200, 30, 400  # characters; brackets; of a result
_MOST_BITS = int(_MOST_DIGITS * 3.33)


def calculator(expression: str) -> str:
    """Computes an arithmetic expression exactly.

    Args:
        expression: numbers with + - * / // % ** and brackets, such as 12*(3+4).
    """
    return in_words(value_of(expression))


def value_of(expression: str) -> Fraction:
    """Raises: ValueError: it is no such expression, divides by zero or gives a number of too many digits."""
    if len(expression) > _LONGEST:
        raise ValueError(f"an expression of {len(expression)} characters; {_LONGEST} are the most")
    parser = _Parser(_tokens(expression.translate({0xD7: "*", 0xF7: "/", 0x2212: "-", ord(","): None})))
    value = parser.sum(0)
    if parser.tokens:
        raise ValueError(f"{parser.tokens[0]!r} is not expected there")
    return value


def in_words(value: Fraction) -> str:
    """Example: 7/2 -> "3.5", 1/3 -> "1/3"."""
    if value.denominator == 1:
        return str(value.numerator)
    power = value.denominator
    for prime in (2, 5):
        while power % prime == 0:
            power //= prime
    if power != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = max(_power_in(value.denominator, 2), _power_in(value.denominator, 5))
    text = str(abs(value.numerator) * 10**digits // value.denominator).zfill(digits + 1)
    return ("-" if value < 0 else "") + text[:-digits] + "." + text[-digits:]


def _power_in(number: int, prime: int) -> int:
    count = 0
    while number % prime == 0:
        number, count = number // prime, count + 1
    return count


def _tokens(expression: str) -> list[str]:
    found, place, text = [], 0, expression.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ValueError(f"{text[place:].strip()[:20]!r} is no number and no operator")
        found.append(match[1])
        place = match.end()
    return found


def _checked(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
        raise ValueError(f"the result has more than {_MOST_DIGITS} digits")
    return value


class _Parser:
    """Sums of products of signed powers."""

    def __init__(self, tokens: list[str]):
        self.tokens = tokens

    def _next_of(self, *wanted: str) -> str:
        return self.tokens.pop(0) if self.tokens and self.tokens[0] in wanted else ""

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while sign := self._next_of("+", "-"):
            other = self._product(depth)
            value = _checked(value + other if sign == "+" else value - other)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._signed(depth)
        while sign := self._next_of("*", "/", "//", "%"):
            other = self._signed(depth)
            if sign != "*" and other == 0:
                raise ValueError("division by zero")
            value = _checked(_OPERATORS[sign](value, other))
        return value

    def _signed(self, depth: int) -> Fraction:
        is_negative = False
        while sign := self._next_of("+", "-"):
            is_negative ^= sign == "-"
        value = self._power(depth)
        return -value if is_negative else value

    def _power(self, depth: int) -> Fraction:
        base = self._atom(depth)
        if not self._next_of("**", "^"):
            return base
        if depth >= _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} brackets or powers")
        is_negative = bool(self._next_of("-"))
        power = self._power(depth + 1) * (-1 if is_negative else 1)
        if power.denominator != 1:
            raise ValueError("the exponent is no whole number")
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(power) * max(0, bits - 1) > _MOST_BITS:
            raise ValueError(f"the result has more than {_MOST_DIGITS} digits")
        if base == 0 and power < 0:
            raise ValueError("division by zero")
        return _checked(base ** int(power))

    def _atom(self, depth: int) -> Fraction:
        if not self.tokens:
            raise ValueError("the expression ends too early")
        token = self.tokens.pop(0)
        if token == "(":
            if depth >= _DEEPEST:
                raise ValueError(f"more than {_DEEPEST} brackets or powers")
            value = self.sum(depth + 1)
            if not self._next_of(")"):
                raise ValueError("a bracket is not closed")
            return value
        if token[-1].isdigit():
            return Fraction(token)
        raise ValueError(f"{token!r} is not expected there")


_OPERATORS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: Fraction(a // b),
    "%": lambda a, b: a % b,
}
