r"""Whether an answer agrees with the gold one: as quantities, as words, as sets of numbers (regions.py), as several
values (structure.py), or, for everything else, as formulas (formulas.py).
"""

from __future__ import annotations

import re
from functools import lru_cache

from mindrlhf_lite.rewards import east_asian
from mindrlhf_lite.rewards.congruences import same_congruence
from mindrlhf_lite.rewards.final_answer import Answer, is_part_of_more, math_spans, quantity_in
from mindrlhf_lite.rewards.formulas import same_formula
from mindrlhf_lite.rewards.numbers import Quantity, changes_the_value, parse_quantity
from mindrlhf_lite.rewards.phrases import as_arithmetic, value_said_last
from mindrlhf_lite.rewards.plain_form import plain_form, without_parentheses
from mindrlhf_lite.rewards.regions import same_region
from mindrlhf_lite.rewards.structure import Node, is_name, read, same_structure
from mindrlhf_lite.rewards.unevaluated import leaves_the_work

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
_DENIAL = re.compile(r"(?:not|no|never|either|neither)\b", re.IGNORECASE)
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
_GROUPING = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LIST_BEFORE = re.compile(
    r".*\b(?:answers?|solutions?|roots?|values?|zeros?|numbers?)\b[^.:=]{0,40}?(?:\bare\b|\bis\b|:)\s*"
    r"|.*(?:值|解|答案|根|答え|답)(?:分别|分別)?(?:是|为|為|は|은|는|:|：)\s*",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:(?:and|so|thus|hence|therefore|then|finally|we (?:get|have|find|obtain|see)|it follows|this (?:gives|means|is)"
    r"|which (?:gives|means|is)|that is|所以|因此|故|解得|得|よって|したがって|따라서)"
    r"(?: that)?[,:，：]?\s*)+(?![A-Za-z]{2})",
    re.IGNORECASE,
)
_YES_OR_NO = re.compile(
    r"(yes|no|true|false)\b(?:\s*[,.;:!-]+\s*|\s+(?=it|they|he|she|there|because|since|the)\b|$)(.*)", re.I | re.S
)
_TAKES_BACK = re.compile(r"\b(?:but|or|maybe|perhaps|unless|however|sometimes|not always|only if)\b", re.I)
_OPPOSITE = {"yes": r"no\b|\bnot|n't\b|false", "no": "yes|true", "true": r"no\b|\bnot|n't\b|false", "false": "yes|true"}
# the left side of an equation that says of what the right side is the value, though it is no single name
_ASKED = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|lim|sum|int|max|min|overline|vec)(?![A-Za-z]).*[A-Za-z].*|.*[A-Za-z].*[+-].*[A-Za-z].*"
)


def agrees(answer: Answer | None, gold: str, question: str = "") -> bool | None:
    """Whether the answer is the gold one. None: there is none, or none that can be read. Args: question: as asked;
    empty: not known.
    """
    if answer is None:
        return None
    if leaves_the_work(answer.text, gold, question):
        return False
    if answer.is_exact:
        return same_answer(answer.text, gold)
    phrase = east_asian.without_copula(answer.text)
    verdict = same_answer(phrase, gold)
    if verdict is False and _is_list_of_quantities(phrase):
        return False
    if not verdict and read(plain_form(gold)).kind and (lead := _LIST_BEFORE.match(phrase)):
        verdict = same_answer(phrase[lead.end() :], gold)  # "The solutions are 1 and 2"
    if not verdict and (lead := _LEAD.match(phrase)):
        verdict = same_answer(phrase[lead.end() :], gold)  # "So x > 3"
    if verdict or not _is_sentence(plain_form(phrase)):
        return verdict
    if spans := math_spans(phrase):
        place = phrase.rfind(spans[-1])
        before, behind = phrase[:place], phrase[place + len(spans[-1]) :]
        if is_part_of_more(before.rstrip("$\\([ "), behind.lstrip("$\\)] ")):
            return len(spans) > 1 and _are_listed(phrase, spans, gold)
        if len(spans) > 1 and _are_listed(phrase, spans, gold):
            return True
        if _gold_quantity(gold) is None or not any(character.isdigit() for character in behind):
            is_said = len(set(map(plain_form, spans))) == 1 or value_said_last(phrase, spans)
            return is_said and bool(same_answer(spans[-1], gold))
    return quantity_agrees(phrase, gold) if _gold_quantity(gold) is not None else verdict


def _are_listed(phrase: str, spans: list[str], gold: str) -> bool:
    """Whether the formulas of a sentence, with what joins them, are the list that the gold answer is: "So $x = 2$ and
    $y = 3$."
    """
    if read(plain_form(gold)).kind != "list":
        return False
    start, end = phrase.find(spans[0]), phrase.rfind(spans[-1]) + len(spans[-1])
    before = phrase[:start].rstrip("$\\([ ")
    is_denied = is_part_of_more(before, phrase[end:].lstrip("$\\)] "))
    return not is_denied and bool(same_answer(phrase[start:end].replace("$", " "), gold))


def _is_list_of_quantities(text: str) -> bool:
    parts = plain_form(text).split(", ")
    return len(parts) > 1 and all(parse_quantity(part) is not None for part in parts)


def number_agrees(answer: Answer | None, gold: str, question: str = "") -> bool | None:
    """`agrees` for gold answers that are numbers; no others are found right."""
    if answer is None:
        return None
    if leaves_the_work(answer.text, gold, question):
        return False
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
    if yes := _YES_OR_NO.fullmatch(wanted):
        return _says(text, yes[1].lower())
    for compare in (same_congruence, same_region):
        if (verdict := compare(text, wanted)) is not None:
            return verdict
    found, several = read(text), read(wanted)
    if not (found.kind or found.name or found.names or several.kind or several.name or several.names):
        return _same_leaf(text, wanted)
    if _is_list_of_words(several):
        return False
    if same_structure(found, several, _same_leaf):
        return True
    # y = 2x + 3 is also y - 2x = 3
    are_equations = not found.kind and not several.kind and "=" in text and "=" in wanted
    is_one_named = bool(found.name) != bool(several.name)
    return are_equations and is_one_named and same_formula(text, wanted)


def _says(text: str, wanted: str) -> bool:
    """Whether a text says yes, or no, in a few words: "Yes, it is"."""
    said = _YES_OR_NO.fullmatch(text)
    if said is None or said[1].lower() != wanted:
        return False
    return not re.search(rf"\b(?:{_OPPOSITE[wanted]})", said[2], re.I) and not _TAKES_BACK.search(said[2])


def _is_list_of_words(node: Node) -> bool:
    """Names in a list may be in an order that matters: they are compared as they stand."""
    parts = [part.text for part in node.parts] if node.kind else []
    return any(_is_prose(_without_unit(part)) and parse_quantity(part) is None for part in parts)


def _same_leaf(text: str, wanted: str) -> bool:
    """Whether two single values are the same, in plain form."""
    expected = _gold_quantity(wanted)
    if expected is not None:
        return _is_quantity(text, expected, wanted) is True
    if _as_words(text) == _as_words(wanted):
        return True
    if option := _OPTION.fullmatch(wanted):
        said = _OPTION.fullmatch(text) or _LABELLED_OPTION.fullmatch(text) or _OPTION_WITH_REASON.fullmatch(text)
        return said is not None and next(group for group in said.groups() if group) == option.group(1)
    if _is_prose(_without_unit(wanted)) or _is_prose(_without_unit(text)):
        return False
    if "=" not in wanted and len(sides := [side.strip() for side in _EQUALS.split(text)]) > 1:
        return _are_sides(sides, wanted)
    return same_formula(_without_unit(text), _without_unit(wanted))


def _are_sides(sides: list[str], wanted: str) -> bool:
    """Whether an equation says the wanted value: \\sin x = \\sqrt{12} = 2\\sqrt{3}."""
    *others, last = sides
    if not all(sides) or not _same_leaf(last, wanted):
        return False
    return all(is_name(side) or _ASKED.fullmatch(side) or _same_leaf(side, wanted) for side in others)


def _is_quantity(text: str, expected: Quantity, gold: str) -> bool | None:
    found = parse_quantity(text)
    if found is not None:
        return found.equals(expected)
    if not any(character.isdigit() for character in text) and "\\" not in text and text != "e":
        return None
    if label := _LABEL.match(text):
        return not changes_the_value(label.group().split()) and _is_quantity(text[label.end() :], expected, gold)
    if (verdict := same_congruence(text, plain_form(gold))) is not None:
        return verdict
    *others, last = [side.strip() for side in _EQUALS.split(text)]
    if others:  # "x = 9 + 9 = 18": names, and what has the same value
        same = all(_is_left_side(side) or _is_value(side, expected, gold) for side in others)
        return same and bool(last) and _is_quantity(as_arithmetic(last), expected, gold)
    if _NO_NUMBER.search(text) or _is_prose(_without_unit(text)):
        return False
    return same_formula(_without_unit(text), _ungrouped(gold))


def _is_left_side(side: str) -> bool:
    return _NAME.fullmatch(side) is not None and _DENIAL.match(side) is None


def _is_value(side: str, expected: Quantity, gold: str) -> bool:
    found = parse_quantity(side)
    if found is not None:
        return found.equals(expected)
    side = as_arithmetic(side)
    if not _ARITHMETIC.fullmatch(side):
        return False
    # of "180 - 10%", nobody knows ten percent of what
    return "%" in side or same_formula(side.replace("$", ""), _ungrouped(gold))


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
    return east_asian.has_letters(text) or any(
        word.lower() not in _FUNCTIONS
        for word in _WORDS.findall(text.replace("\\", " \\"))
        if not word.startswith("\\")
    )


def _is_sentence(text: str) -> bool:
    """Whether there are words beside the formula, other than those that join several."""
    return east_asian.has_letters(text) or any(
        word.lower() not in _FUNCTIONS | _JOINING for word in _SHORT_WORDS.findall(text)
    )


def _without_unit(text: str) -> str:
    """An expression without the words of its unit: "2\\sqrt{3} cm" is 2\\sqrt{3}."""
    text = east_asian.without_unit(text)
    unit = _UNIT_BEHIND.search(text)
    if unit is None or changes_the_value(unit.group().split()) or _HALF_OF_DAY.search(unit.group()):
        return text
    return text[: unit.start()]
