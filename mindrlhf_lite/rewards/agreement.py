r"""Whether an answer agrees with the gold one: as quantities, as words, or, for everything else, by math-verify on the
whole of both.

math-verify's own search for an answer in a text is not used: it takes parts of a text, and so pays for a right number
anywhere in it.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from mindrlhf_lite.rewards.final_answer import Answer, is_part_of_more, math_spans, quantity_in
from mindrlhf_lite.rewards.numbers import Quantity, changes_the_value, parse_quantity
from mindrlhf_lite.rewards.plain_form import plain_form, without_parentheses

# no number has these; where the gold answer is one, neither may the candidate's formula
_NO_NUMBER = re.compile(
    r"[,;:<>]|\.\.\.|\d\s+\d|[\d)}\]]\s*_|\b(?:or|and|to|of)\b|\\(?:pm|mp|l?dots|cdots|leq?|geq?|neq?|approx|sim|equiv|[pb]?mod|to|rightarrow|Rightarrow|in|cup|cap|overline|infty)(?![A-Za-z])"
)
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_FUNCTIONS = frozenset(
    """
    sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log exp lim max min gcd lcm det mod sqrt frac inf
    sup
    """.split()
)
_SHORT_WORDS, _JOINING = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}"), frozenset({"or", "and", "to", "of", "not"})
_UNIT_BEHIND = re.compile(
    r"(?<=[\d)}\]a-z°])\s+(?:(?:square|cubic|sq|cu)\.?\s+)?[A-Za-z]{2,}\.?(?:\s*\^\s*\{?\d\}?)?(?:\s+[A-Za-z]{2,}){0,3}$"
)
# the left side of "x = 5": one name, with index, argument, or in words
_NAME = re.compile(
    r"(?:m?\s*\\angle\s*)?\\?[A-Za-z][A-Za-z ]*'*(?:_\s*(?:\{[^{}]*\}|\w))?(?:\s*\([^()]{0,20}\))?"
    r"|\|[A-Z]{1,3}\||\\overline\s*\{[A-Z]{2}\}|\[[A-Z]{2,6}\]"
)
_LABEL = re.compile(r"[A-Za-z][A-Za-z ]{0,40}:\s*|\([A-J]\)\s*(?=\S)")  # "Total: 18", "(C) 18"
_ARITHMETIC = re.compile(r"(?:[\d\s+\-*/().,^{}%$]|\\(?:times|cdot|frac|div|sqrt))+")
_EQUALS = re.compile(r"(?<![<>!\\=])=(?!=)")
_OPTION = re.compile(r"\(?([A-J])\)?[.:]?")
_OTHER_OPTION = r"(?:(?:or|and|not)\b|\(?[A-J](?:[.):,]|\s+(?:and|or)\b|$)|.*(?:\([A-J]\)|\b(?:or|and|not)\s+[A-J]\b))"
_LABELLED_OPTION = re.compile(rf"(?:\(([A-J])\)|([A-J])[.:)])(?!\s*{_OTHER_OPTION}).+")
_OPTION_WITH_REASON = re.compile(r"\(?([A-J])\)?(?:\s+(?:because|since|as)\b.*)")
_ARTICLE = re.compile(r"^(?:(?:the|an?)\s+(?=[A-Za-z]{3})|(?:option|choice|answer|it is|it's)\s+)", re.IGNORECASE)
_HALF_OF_DAY = re.compile(r"\b[ap]\.?m\b", re.IGNORECASE)
_BLANKS = re.compile(r"[\s$]+")
_SINGLE = re.compile(r"\{([A-Za-z0-9])\}")  # 2^{n} is 2^n; 2^{n-1} keeps its braces
_ONLY_WORDS = re.compile(r"[A-Za-z][A-Za-z.' -]*")
_LONGEST_FORMULA = 300
_COMMAND = re.compile(r"\\[A-Za-z]+")
_GROUPING = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_EXACT_DIGITS = 14  # of a decimal that is to equal a formula
_AND = re.compile(r"\s*,?\s*\b(?:and|or)\b\s*")
_NAMED = re.compile(r"^\\?[A-Za-z](?:_\{?\w\}?)?\s*=\s*(?=[^=]+$)")
_LIST_BEFORE = re.compile(
    r".*\b(?:answers?|solutions?|roots?|values?|zeros?|numbers?)\b[^.:=]{0,40}?(?:\bare\b|\bis\b|:)\s*", re.I
)
_BASE = re.compile(r"\d\s*_")
# towers of powers, large factorials: sympy would compute them
_EXPLOSIVE = re.compile(
    r"\^\s*\{[^{}]*\^|\^\s*\{?\s*-?\d{4,}|\d{3,}\s*!|!\s*!|\d{60,}|\)\s*\^\s*\{?\s*\d{3,}|\^\s*\{?[^{}]*!"
)


def agrees(answer: Answer | None, gold: str) -> bool | None:
    """Whether the answer is the gold one. None: there is none, or none that can be read."""
    if answer is None:
        return None
    if answer.is_exact:
        return same_answer(answer.text, gold)
    verdict = same_answer(answer.text, gold)
    if verdict is False and _is_list_of_quantities(answer.text):
        return False
    if not verdict and "," in plain_form(gold) and (lead := _LIST_BEFORE.match(answer.text)):
        verdict = same_answer(answer.text[lead.end() :], gold)  # "The solutions are 1 and 2"
    if verdict or not _is_sentence(plain_form(answer.text)):
        return verdict
    if spans := math_spans(answer.text):
        place = answer.text.rfind(spans[-1])
        before, behind = answer.text[:place], answer.text[place + len(spans[-1]) :]
        if is_part_of_more(before.rstrip("$\\([ "), behind.lstrip("$\\)] ")):
            return False
        if _gold_quantity(gold) is None or not any(character.isdigit() for character in behind):
            return len(set(map(plain_form, spans))) == 1 and bool(same_answer(spans[-1], gold))
    return quantity_agrees(answer.text, gold) if _gold_quantity(gold) is not None else verdict


def _is_list_of_quantities(text: str) -> bool:
    parts = plain_form(text).split(", ")
    return len(parts) > 1 and all(parse_quantity(part) is not None for part in parts)


def number_agrees(answer: Answer | None, gold: str) -> bool | None:
    """`agrees` for gold answers that are numbers; no others are found right."""
    if answer is None:
        return None
    if answer.is_exact and _gold_quantity(gold) is not None:
        return same_answer(answer.text, gold)
    return quantity_agrees(answer.text, gold)


def quantity_agrees(phrase: str, gold: str) -> bool | None:
    """Whether a phrase ends up with the gold quantity. None: there is no digit in it."""
    if not any(character.isdigit() for character in plain_form(phrase)):
        return None
    found, expected = quantity_in(phrase), _gold_quantity(gold)
    return found is not None and expected is not None and found.equals(expected)


def same_answer(candidate: str, gold: str) -> bool | None:
    """Whether two answers, each as a whole, are the same. None: no answer can be read from `candidate`."""
    text = plain_form(candidate)
    if not text:
        return None
    expected = _gold_quantity(gold)
    if expected is not None:
        return _is_quantity(text, expected, gold)
    wanted = plain_form(gold)
    if _as_words(text) == _as_words(wanted):
        return True
    text = _as_list(text) if "," in wanted else text
    if option := _OPTION.fullmatch(wanted):
        said = _OPTION.fullmatch(text) or _LABELLED_OPTION.fullmatch(text) or _OPTION_WITH_REASON.fullmatch(text)
        return said is not None and next(group for group in said.groups() if group) == option.group(1)
    if _is_prose(wanted) or _is_prose(_without_unit(text)) != _is_prose(_without_unit(wanted)):
        return False
    return _same_formula(_without_unit(text), _without_unit(wanted))


def _is_quantity(text: str, expected: Quantity, gold: str) -> bool | None:
    found = parse_quantity(text)
    if found is not None:
        return found.equals(expected)
    if not any(character.isdigit() for character in text) and "\\" not in text and text != "e":
        return None
    if label := _LABEL.match(text):
        return not changes_the_value(label.group().split()) and _is_quantity(text[label.end() :], expected, gold)
    *others, last = [side.strip() for side in _EQUALS.split(text)]
    if others:  # "x = 9 + 9 = 18": names, and what has the same value
        same = all(_NAME.fullmatch(side) or _is_value(side, expected, gold) for side in others)
        return same and bool(last) and _is_quantity(last, expected, gold)
    if _NO_NUMBER.search(text) or _is_prose(_without_unit(text)):
        return False
    return _same_formula(_without_unit(text), _ungrouped(gold))


def _is_value(side: str, expected: Quantity, gold: str) -> bool:
    found = parse_quantity(side)
    if found is not None:
        return found.equals(expected)
    if not _ARITHMETIC.fullmatch(side):
        return False
    # of "180 - 10%", nobody knows ten percent of what
    return "%" in side or _same_formula(side.replace("$", ""), _ungrouped(gold))


def _ungrouped(gold: str) -> str:
    """The plain form of 14,000 is 14000 here: to math-verify a comma makes a set."""
    return _GROUPING.sub("", plain_form(gold))


@lru_cache(maxsize=4096)
def _gold_quantity(gold: str) -> Quantity | None:
    first, *others = map(parse_quantity, _EQUALS.split(gold))  # "0.56 = 56\\%"
    return first if first and all(other and other.equals(first) for other in others) else None


def _as_words(text: str) -> str:
    """What has to be the same, letter by letter: a formula without blanks, words without article and case."""
    plain = _ARTICLE.sub("", without_parentheses(text))
    letters = _SINGLE.sub(r"\1", _BLANKS.sub("", plain))
    is_text = _ONLY_WORDS.fullmatch(plain) or _is_prose(plain) or _HALF_OF_DAY.search(plain)
    return letters.casefold().replace(".m", "m") if is_text else letters


def _is_prose(text: str) -> bool:
    """Whether there are words in it that are no functions: then it is compared as text, not as a product of letters."""
    return any(
        word.lower() not in _FUNCTIONS
        for word in _WORDS.findall(text.replace("\\", " \\"))
        if not word.startswith("\\")
    )


def _is_sentence(text: str) -> bool:
    """Whether there are words beside the formula, other than those that join several."""
    return any(word.lower() not in _FUNCTIONS | _JOINING for word in _SHORT_WORDS.findall(text))


def _without_unit(text: str) -> str:
    """An expression without the words of its unit: "2\\sqrt{3} cm" is 2\\sqrt{3}."""
    unit = _UNIT_BEHIND.search(text)
    if unit is None or changes_the_value(unit.group().split()) or _HALF_OF_DAY.search(unit.group()):
        return text
    return text[: unit.start()]


def _same_formula(candidate: str, gold: str) -> bool:
    if _BASE.search(candidate) or _BASE.search(gold):  # math-verify drops it: 193_8 would be 193
        return False
    if {candidate[:1], gold[:1]} == {"(", "\\"} and "\\{" in (candidate[:2], gold[:2]):  # a pair is no set
        return False
    if "," in gold and candidate.count(",") != gold.count(","):  # sets to math-verify
        return False
    if _letters(candidate) != _letters(gold) and _letters(candidate.casefold()) == _letters(gold.casefold()):
        return False  # n! is not N!, which math-verify takes for the same
    if len(candidate) > max(_LONGEST_FORMULA, 4 * len(gold)) or _EXPLOSIVE.search(candidate):
        return False
    expected = _parsed_gold(gold)
    found = parsed_formula(candidate) if expected is not None else None
    if expected is None or found is None:
        return False
    from math_verify import verify

    # 0.5 is 1/2; 1.414214 is no \sqrt{2}
    return bool(verify(expected, found, float_rounding=_EXACT_DIGITS, timeout_seconds=None))


def _letters(formula: str) -> set[str]:
    return set(re.findall("[A-Za-z]", _COMMAND.sub("", formula)))


def _as_list(text: str) -> str:
    """ "x=1 or x=2" as "1, 2": several values, however they are joined and named."""
    parts = [part.strip() for part in _AND.sub(", ", text).split(",")]
    named = [_NAMED.sub("", part) for part in parts]
    return ", ".join(named if all(map(_NAMED.match, parts)) else parts)


@lru_cache(maxsize=1024)
def _parsed_gold(gold: str) -> Any:
    return parsed_formula(gold)


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
