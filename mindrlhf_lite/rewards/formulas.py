r"""Whether two formulas, each as a whole, are the same: by their values where they have some (exact.py), by math-verify
where they have none (matrices, sets of functions, relations).

math-verify's own search for an answer in a text is not used: it takes parts of a text, and so pays for a right number
anywhere in it.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from mindrlhf_lite.rewards.costs import Costly, check_tree, text_is_costly
from mindrlhf_lite.rewards.exact import proportional, same_value

_LONGEST_FORMULA = 300
_COMMAND = re.compile(r"\\[A-Za-z]+")
_EXACT_DIGITS = 14  # of a decimal that is to equal a formula, to math-verify
_OF_AN_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*°")
_BASE = re.compile(r"\d\s*_")


def same_formula(candidate: str, gold: str) -> bool:
    """Whether the plain form of a formula is that of the gold one, in another way to write it."""
    if _BASE.search(candidate) or _BASE.search(gold):  # math-verify drops it: 193_8 would be 193
        return False
    if {candidate[:1], gold[:1]} == {"(", "\\"} and "\\{" in (candidate[:2], gold[:2]):  # a pair is no set
        return False
    if "," in gold and candidate.count(",") != gold.count(","):  # sets to math-verify
        return False
    if _letters(candidate) != _letters(gold) and _letters(candidate.casefold()) == _letters(gold.casefold()):
        return False  # n! is not N!, which math-verify takes for the same
    if len(candidate) > max(_LONGEST_FORMULA, 4 * len(gold)):
        return False
    expected = bounded_formula(gold)
    found = bounded_formula(candidate) if expected is not None else None
    return expected is not None and found is not None and _same_expression(expected, found)


def _same_expression(expected: Any, found: Any) -> bool:
    import sympy
    from math_verify import verify

    if (verdict := same_value(expected, found)) is not None:
        return verdict
    # x + y = 5 is not 5, nor the other way round
    if isinstance(expected, sympy.Eq) != isinstance(found, sympy.Eq):
        return False
    if isinstance(expected, sympy.Eq):
        sides = (sympy.Add(each.lhs, -each.rhs, evaluate=False) for each in (expected, found))
        if (verdict := proportional(*sides)) is not None:
            return verdict
    if _has_functions_of_its_own(expected, found):
        return False
    # 0.5 is 1/2; 1.414214 is no \sqrt{2}
    return bool(verify(expected, found, float_rounding=_EXACT_DIGITS, timeout_seconds=None))


def _has_functions_of_its_own(expected: Any, found: Any) -> bool:
    """Whether what has no value, or is no number, has functions that the gold one lacks: math-verify would simplify
    them, which may take for ever (limits, roundings, sines of large numbers).
    """
    import sympy

    never = (sympy.Limit, sympy.Sum, sympy.Product, sympy.Integral, sympy.floor, sympy.ceiling)
    kinds = (*never, sympy.Function) if isinstance(found, sympy.Expr) else never
    own, gold = ({type(each) for each in sympy.sympify(side).atoms(*kinds)} for side in (found, expected))
    return not own <= gold


def _letters(formula: str) -> set[str]:
    return set(re.findall("[A-Za-z]", _COMMAND.sub("", formula)))


@lru_cache(maxsize=2048)
def bounded_formula(text: str) -> Any:
    """`parsed_formula`, or None where it would take long to evaluate."""
    if _OF_AN_ANGLE.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    if text_is_costly(text) or (expression := parsed_formula(text)) is None:
        return None
    try:
        check_tree(expression)
    except Costly:
        return None
    return expression


def parsed_formula(text: str) -> Any:
    """The sympy expression that the whole text is, or None."""
    # it warns that it has no timeout of its own; the pool of workers has
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, latex2sympy, normalize_latex
    from math_verify.grader import should_treat_as_complex

    settings = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    try:
        normal = normalize_latex(text, config=settings)
        return latex2sympy(
            normal, is_real=not should_treat_as_complex(normal), convert_degrees=False, normalization_config=None
        )
    except Exception:  # the parser raises bare Exceptions on what it cannot read, and others from inside sympy
        return None
