r"""What a formula would cost to evaluate, before anything evaluates it.

sympy computes (9!)! and \binom{10^7}{5\cdot10^6} as soon as it meets them. Such a formula is no answer that can be
checked, so it is refused; a time limit alone would cost its seconds on every completion that writes one.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

from mindrlhf_lite.rewards.exact import NoNumber, letters, value_of
from mindrlhf_lite.rewards.plain_form import has_balanced_braces

_MAX_DIGITS = 6000  # of a number, or of its numerator and denominator
_MAX_FACTORIAL = 2000  # 5,736 digits
_MAX_EXPANSION = 40  # of a sum with letters in it: its powers are multiplied out
_MAX_NODES = 400
_MAX_DEPTH = 30  # of brackets: the parser is recursive, and slow on nested ones
_MAX_OPERATORS = 120

_TOO_LONG = re.compile(r"\d{60}|!\s*!|\^\s*\{?\s*-?\d{6}")
_LARGE_DEGREE = re.compile(r"\\sqrt\s*\[[^\]]*[\^!]")  # of a root, which the parser evaluates
# a number to be rounded the parser evaluates, and towers of powers around it
_ROUNDED, _TOWER = re.compile(r"\\l(?:ceil|floor)(?![A-Za-z])"), re.compile(r"\^\s*\{[^{}]*\^")
# what the parser evaluates while it reads: only with small whole numbers or letters in it
_EAGER = re.compile(r"\\[dt]?binom|\\choose|\\(?:gcd|lcm)|\\operatorname\s*\{\s*(?:gcd|lcm)|\b(?:gcd|lcm)\b")
_UNBOUNDED = re.compile(r"\d{4}|[\^!]|\\(?:times|cdot|prod|sum)|\d\s*\*")
_REPEATED = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")
_MANY_TERMS = re.compile(r"\d{4}|\d\s*\^|!")


class Costly(Exception):
    """A formula that is too large to be evaluated."""


def text_is_costly(formula: str) -> bool:
    r"""Whether even to parse the formula may take long. Example: \binom{10^7}{5}."""
    if _TOO_LONG.search(formula) or _LARGE_DEGREE.search(formula) or not has_balanced_braces(formula):
        return True
    if len(re.findall(r"[-+*/^!=<>]|\\[a-z]+", formula)) > _MAX_OPERATORS or _depth(formula) > _MAX_DEPTH:
        return True
    if len(_EAGER.findall(formula)) > 3 or (_EAGER.search(formula) and _UNBOUNDED.search(formula)):
        return True
    if _ROUNDED.search(formula) and _TOWER.search(formula):
        return True
    return _REPEATED.search(formula) is not None and _MANY_TERMS.search(formula) is not None


def _depth(formula: str) -> int:
    depth = deepest = 0
    for character in formula:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest


def check_tree(expression: Any) -> None:
    """Bounds the digits of every number in an unevaluated sympy expression.

    Raises:
        Costly: some number in it has more than 6,000 digits, a sum with letters is raised to more than the 40th power,
            or there are more than 400 nodes.
    """
    _Digits().of(expression)


class _Digits:
    """Counts nodes on the way."""

    def __init__(self) -> None:
        self.num_nodes = 0

    def of(self, node: Any) -> float:
        """An upper bound of the decimal digits of its numerator and of its denominator."""
        import sympy

        self.num_nodes += 1
        if self.num_nodes > _MAX_NODES:
            raise Costly("too many nodes")
        if isinstance(node, sympy.Rational):
            return math.log10(max(abs(int(node.p)), int(node.q)) + 1)
        parts = [self.of(part) for part in getattr(node, "args", ())]
        if isinstance(node, sympy.Pow | sympy.exp):
            digits = self._of_power(node, parts)
        elif isinstance(node, sympy.factorial | sympy.factorial2 | sympy.subfactorial | sympy.gamma):
            digits = _factorial_digits(parts[0])
        elif isinstance(node, sympy.Add | sympy.Mul | sympy.MatMul | sympy.MatAdd):
            digits = sum(parts)
        else:
            digits = max(parts, default=1.0)
        if digits > _MAX_DIGITS:
            raise Costly("too many digits")
        return digits

    def _of_power(self, node: Any, parts: list[float]) -> float:
        import sympy

        base = parts[0] if len(parts) == 2 else 0.5  # exp has no base
        largest = _magnitude(node.args[-1])
        is_sum = isinstance(node, sympy.Pow) and isinstance(node.base, sympy.Add) and bool(node.base.free_symbols)
        if is_sum and largest > _MAX_EXPANSION:
            raise Costly("an expansion")
        return max(1.0, base) * largest


def _magnitude(node: Any) -> float:
    """How large an exponent is, with 2 for its letters; its own parts have been checked."""
    import mpmath

    try:
        with mpmath.workdps(20):
            value = abs(value_of(node, dict.fromkeys(letters(node), Fraction(2))))
    except (NoNumber, ArithmeticError, ValueError):
        return 1.0
    if value > _MAX_DIGITS * _MAX_DIGITS:
        raise Costly("a tower of powers")
    return max(1.0, float(value))


def _factorial_digits(digits: float) -> float:
    largest = 10**digits if digits < 8 else math.inf
    if largest > _MAX_FACTORIAL + 2:
        raise Costly("a large factorial")
    return max(1.0, largest * math.log10(largest + 1))
