r"""Whether two sympy expressions have the same value: exactly where both are rational, else to 40 of 60 digits, always
relative to their size: 1/2^99 is not 1/2^98. Expressions with letters are compared at a few points.

sympy's own equality rounds absolutely (both above are 0 to it), and its `simplify` has no bound on its time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

DIGITS = 60
_AGREE = 40  # digits that have to agree: 20 may be lost in differences
_OF_DECIMALS = 15  # where a decimal stands in one of them that double precision rounded
_MAX_EXPONENT = 10**6  # of a floating-point number, in bits: e^(e^(e^20)) has more
_NUM_POINTS, _LEAST_POINTS = 4, 2

Value = Any  # a Fraction, or an mpmath number


class NoNumber(Exception):
    """It has no value: a letter without one, an unknown function, infinity."""


UNDEFINED = (NoNumber, ZeroDivisionError, ValueError, OverflowError)  # what `value_of` raises where there is none


def same_value(gold: Any, found: Any) -> bool | None:
    """Whether both have the same value, for all values of their letters. None: that cannot be said so.

    Both must have passed `costs.check_tree`.
    """
    import mpmath
    import sympy

    if not isinstance(gold, sympy.Expr) or not isinstance(found, sympy.Expr):
        return None
    if _is_infinite(gold) != _is_infinite(found):
        return False  # left to math-verify, oo * 999 was 73.51 in one process of several
    # \sin^2 x + \cos^2 x is 1; letters that leave no value at a point are no number
    is_number = bool(letters(gold)) != bool(letters(found))
    if not is_number and letters(gold) != letters(found):
        return None
    names = letters(gold) | letters(found)
    has_decimals = bool(gold.atoms(sympy.Float) or found.atoms(sympy.Float))
    num_points = 0
    with mpmath.workdps(DIGITS):
        for pair in _values_at_points(gold, found, names):
            if not is_close(*pair, digits=_OF_DECIMALS if has_decimals else _AGREE):
                return False
            num_points += 1
    if num_points >= (_LEAST_POINTS if names else 1):
        return True
    return False if is_number else None


def _values_at_points(gold: Any, found: Any, names: set[str]) -> Iterator[tuple[Value, Value]]:
    """Both values at a few points, or at the only one where there are no letters; points where one has none are passed
    over.
    """
    for point in range(_NUM_POINTS if names else 1):
        at = {name: _coordinate(index, point) for index, name in enumerate(sorted(names))}
        try:
            pair = value_of(gold, at), value_of(found, at)
        except UNDEFINED:
            continue
        yield pair


def _is_infinite(expression: Any) -> bool:
    """Whether infinity, or what is no number, is a part of its value, and not a bound of a sum or a limit."""
    import sympy

    bounded = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit)
    return expression.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan) and not expression.has(*bounded)


def proportional(gold: Any, found: Any) -> bool | None:
    """Whether one is a constant times the other, as the sides of one equation brought to the left are. None: that
    cannot be said.
    """
    import mpmath

    names, ratios = letters(gold), []
    if not names or names != letters(found):
        return None
    with mpmath.workdps(DIGITS):
        for mine, other in _values_at_points(gold, found, names):
            if mine == 0 or other == 0:
                return None
            ratios.append(as_mpmath(other) / as_mpmath(mine))
        return all(is_close(ratio, ratios[0]) for ratio in ratios) if len(ratios) >= _LEAST_POINTS else None


def is_close(mine: Value, other: Value, digits: int = _AGREE) -> bool:
    """Whether two values are the same: rational ones exactly, others relative to the larger."""
    import mpmath

    if isinstance(mine, Fraction) and isinstance(other, Fraction) and digits >= _AGREE:
        return mine == other
    with mpmath.workdps(DIGITS):
        one, two = as_mpmath(mine), as_mpmath(other)
        return bool(abs(one - two) <= mpmath.mpf(10) ** -digits * max(abs(one), abs(two)))


def letters(expression: Any) -> set[str]:
    """The names of its letters, the imaginary unit aside."""
    return {symbol.name for symbol in expression.free_symbols if not _is_imaginary_unit(symbol)}


def _is_imaginary_unit(symbol: Any) -> bool:
    return bool(symbol.name == "i")


def _coordinate(index: int, point: int) -> Any:
    """Of a letter at a point: not near a whole number, of either sign."""
    import mpmath

    fraction = mpmath.sqrt(2 + 3 * index + 7 * point) % 1
    return (mpmath.mpf("0.3") + 2 * fraction) * (-1 if (point >> 1) & 1 and (index + point) % 2 == 0 else 1)


def value_of(expression: Any, at: Mapping[str, Any] | None = None) -> Value:
    """The value of a sympy expression whose letters have the values `at`.

    Raises:
        NoNumber, ZeroDivisionError, ValueError, OverflowError (`UNDEFINED`): it has none.
    """
    import mpmath
    import sympy

    if isinstance(expression, sympy.Rational):
        return Fraction(int(expression.p), int(expression.q))
    if isinstance(expression, sympy.Float):
        return Fraction(str(expression))
    if isinstance(expression, sympy.Symbol):
        if _is_imaginary_unit(expression):
            return mpmath.mpc(0, 1)
        if at is None or expression.name not in at:
            raise NoNumber(expression.name)
        return at[expression.name]
    for constant, value in ((sympy.pi, mpmath.pi), (sympy.E, mpmath.e), (sympy.GoldenRatio, mpmath.phi)):
        if expression == constant:
            return +value
    if expression == sympy.I:
        return mpmath.mpc(0, 1)
    function = _FUNCTIONS.get(type(expression).__name__)
    if function is None or not expression.args:
        raise NoNumber(str(type(expression)))
    return _bounded(function([value_of(part, at) for part in expression.args]))


def as_mpmath(value: Value) -> Any:
    import mpmath

    return mpmath.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _bounded(value: Value) -> Value:
    import mpmath

    if isinstance(value, Fraction):
        return value
    for part in (mpmath.re(value), mpmath.im(value)):
        if not mpmath.isfinite(part) or (part and abs(mpmath.mag(part)) > _MAX_EXPONENT):
            raise NoNumber("too large")
    return value


def _sum(parts: list[Value]) -> Value:
    import mpmath

    if all(isinstance(part, Fraction) for part in parts):
        return sum(parts, Fraction(0))
    floating = [as_mpmath(part) for part in parts]
    total = sum(floating[1:], floating[0])
    # \sqrt2\sqrt3 - \sqrt6 is 0, not 1e-60
    is_noise = abs(total) < mpmath.mpf(10) ** -(DIGITS - 8) * max(map(abs, floating))
    return Fraction(0) if is_noise else total


def _product(parts: list[Value]) -> Value:
    if all(isinstance(part, Fraction) for part in parts):
        result = Fraction(1)
        for part in parts:
            result *= part
        return result
    floating = [as_mpmath(part) for part in parts]
    result = floating[0]
    for part in floating[1:]:
        result *= part
    return result


def _power(parts: list[Value]) -> Value:
    import mpmath

    base, exponent = parts
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        return base ** int(exponent)
    if base == 0:
        return Fraction(0) if as_mpmath(exponent).real > 0 else _no_number()
    if isinstance(exponent, Fraction) and exponent.denominator % 2 and _is_negative(base):
        # the cube root of -8 is -2 at school
        root = mpmath.power(as_mpmath(-base), as_mpmath(exponent))
        return root * (-1 if exponent.numerator % 2 else 1)
    return mpmath.power(as_mpmath(base), as_mpmath(exponent))


def _is_negative(value: Value) -> bool:
    import mpmath

    floating = as_mpmath(value)
    return bool(mpmath.im(floating) == 0 and mpmath.re(floating) < 0)


def _no_number() -> Value:
    raise NoNumber("undefined")


def _factorial(parts: list[Value]) -> Value:
    import mpmath

    (value,) = parts
    if isinstance(value, Fraction):
        if value.denominator != 1 or value < 0:
            raise NoNumber("factorial")
        return Fraction(math.factorial(int(value)))
    return mpmath.gamma(value + 1)


def _logarithm(parts: list[Value]) -> Value:
    import mpmath

    if parts[0] == 0 or (len(parts) > 1 and parts[1] == 1):
        raise NoNumber("logarithm")
    floating = [as_mpmath(part) for part in parts]
    return mpmath.log(floating[0]) / (mpmath.log(floating[1]) if len(floating) > 1 else 1)


def _rounded(name: str) -> Callable[[list[Value]], Value]:
    def function(parts: list[Value]) -> Value:
        if not isinstance(parts[0], Fraction):
            raise NoNumber(name)
        return Fraction(getattr(math, name)(parts[0]))

    return function


def _floated(name: str) -> Callable[[list[Value]], Value]:
    def function(parts: list[Value]) -> Value:
        import mpmath

        return getattr(mpmath, name)(*map(as_mpmath, parts))

    return function


_FUNCTIONS: dict[str, Callable[[list[Value]], Value]] = {
    "Add": _sum,
    "Mul": _product,
    "Pow": _power,
    "exp": _floated("exp"),
    "log": _logarithm,
    "factorial": _factorial,
    "Abs": lambda parts: abs(parts[0]),
    "UnevaluatedExpr": lambda parts: parts[0],
    "floor": _rounded("floor"),
    "ceiling": _rounded("ceil"),
    **{
        name: _floated(name)
        for name in "sin cos tan cot sec csc asin acos atan sinh cosh tanh asinh acosh atanh conjugate re im".split()
    },
    "binomial": _floated("binomial"),
}
