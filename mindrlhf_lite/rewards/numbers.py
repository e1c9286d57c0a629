r"""The grammar of numbers as people write answers: sign, currency, separators, decimals, fractions, mixed numbers,
powers of ten, percent, degrees, units.

    quantity   = [sign] [currency] [sign] amount [power of ten] [scale] [percent | degrees | currency | unit]
    amount     = integer fraction | fraction | decimal
    decimal    = digits, in groups of three or not, [. digits [repeating digits]] | . digits
    unit       = words, with powers ("cm^3", "m/s^2"), "per 3 days", in parentheses or not

A text is a quantity as a whole or not at all: 2\pi, 2^4, 193_8, "3 or 4", 10-12, 4:3, 4! and 5x are none. Which value a
text has never depends on what is expected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from mindrlhf_lite.rewards import east_asian
from mindrlhf_lite.rewards.plain_form import plain_form, without_parentheses

_MAX_CHARACTERS = 400  # of one quantity: nobody writes longer ones, and thousands of digits cost time
_MAX_EXPONENT = 400

_CURRENCY = r"(?:US\$|USD|EUR|GBP|Rs\.?|[$€£¥₹₩¢])"
_DIGITS = r"(?:\d{1,3}(?:,\d{3}){1,40}|\d{1,3}(?: \d{3}){1,40}|\d{1,100})"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d{{0,100}})?|\.\d{{1,100}})"
_SIGNED = rf"[-+]?\s*{_DECIMAL}"
_FRAC = rf"\\frac\s*(?:\{{\s*({_SIGNED})\s*\}}|(\d))\s*(?:\{{\s*({_SIGNED})\s*\}}|(\d))"
_SLASHED = rf"({_DECIMAL})\s*/\s*({_DECIMAL})"
_REPEATING = r"(\d{0,100})\.(\d{0,100})\\overline\s*\{(\d{1,100})\}"
_POWER = (
    r"(?:\s*(?:\\times|\\cdot|\*|[xX])\s*10\s*\^\s*(?:\{\s*([-+]?\s*\d{1,9})\s*\}|([-+]?\d{1,9}))|[eE]([-+]?\d{1,9}))"
)

_HEAD = re.compile(rf"\s*([-+]?)\s*({_CURRENCY})?\s*([-+]?)\s*(百分之\s*)?")
_FORMS = [
    (re.compile(rf"(\d{{1,100}})\s*又?\s*{_FRAC}"), "mixed_frac"),
    (re.compile(east_asian.FRACTION), "denominator first"),
    (re.compile(r"(\d{1,100})(?: +| and |\s*又\s*)(\d{1,100})\s*/\s*(\d{1,100})(?![\d.,/])"), "mixed"),
    (re.compile(_FRAC), "frac"),
    (re.compile(_REPEATING), "repeating"),
    (re.compile(_SLASHED), "slashed"),
    (re.compile(rf"({_DECIMAL})"), "decimal"),
]
_POWER_OF_TEN = re.compile(_POWER)
_PLAIN_POWER = re.compile(r"10\s*\^\s*(?:\{\s*([-+]?\s*\d{1,9})\s*\}|([-+]?\d{1,9}))")
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
SCALE_WORD = "|".join(_SCALES)
_SCALE = re.compile(rf"\s+({SCALE_WORD})s?\b(?!\s+of\s+\d)", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(?:%|percent(?:age points?)?\b|per cent\b)", re.IGNORECASE)
_DEGREES = re.compile(r"\s*(?:°\s*[CFK]?|degrees?\b(?:\s+(?:celsius|fahrenheit|[CFK]\b))?)", re.IGNORECASE)
_TRAILING_CURRENCY = re.compile(rf"\s*{_CURRENCY}(?=\s|$)")

# a word of a unit; glued to the number only where it is a unit that everybody knows
_WORD = re.compile(r"[A-Za-zµμΩÀ-ÿ][A-Za-zµμΩÀ-ÿ'\-]*\.?")
_WORD_POWER = re.compile(r"\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d)|[23](?![\d\w])")
_JOINT = re.compile(r"\s*(?:/|\*|\\cdot|\\times)\s*|\s+per\s+\d+\s+|\s*/\s*\d+\s+|\s+|\s*-\s*")
_ONE_LETTER = frozenset("mgslLhJNWVKCFA")  # units that stand alone behind a space
_GLUED = frozenset(
    """
    cm mm km dm nm ml mL cl dl kg mg lb lbs oz ft in yd mi min sec hr hrs ms mph kph kmh rpm Hz kHz MHz GHz GB MB KB
    TB kB am pm AM PM kW MW kJ MJ kN Pa kPa mol rad sq units unit st nd rd th
    """.split()
)
# words that make another value of the number before them, or a list
_NO_UNITS = frozenset(
    """
    or and to plus minus times over divided mod modulo base pi tau sin cos tan cot sec csc log ln lg exp sqrt root
    choose factorial squared cubed half halves third thirds fourths fifth fifths sixth sixths seventh sevenths
    eighth eighths ninth ninths tenth tenths hundredth hundredths is are was were not than more less fewer greater
    least most between through versus vs but if then else remainder out nor infinity hundred thousand million
    billion trillion halfs fourth twelfth twelfths thousandth thousandths millionth millionths doubled tripled
    halved increased decreased reduced multiplied followed point wrong incorrect dont know false mille ppm binary
    ternary octal nonary hex hexadecimal zero one two three four five six seven eight nine ten eleven twelve thirteen
    fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    bn lakh lakhs crore crores gross score scores tens hundreds thousands myriad myriads quadrillion quintillion
    sextillion septillion octillion nonillion decillion googol reciprocal negated negative inverse inverted opposite
    short debt loss deficit owed overdrawn
    """.split()
)
# 88 times, 88 times a day, 88 times as many; but not 88 times 2, nor 88 times the width
COUNTS_TIMES = re.compile(
    r"\s*times\b(?=\s*(?:$|[.,;:!?)}]|(?:an?|per|each|every|in|as|more|larger|greater|bigger|longer|faster|higher"
    r"|taller|heavier|older|daily|weekly|total|altogether)\b))",
    re.IGNORECASE,
)
_BEFORE_NUMBER_WORD = re.compile(
    r"\d\s*[A-Za-z]+(?:\s+[A-Za-z]+)?\s+(?:in|for|over|within|after|during|every|per|each|across"
    r"|the|these|those|all|his|her|their|our)\s+$",
    re.IGNORECASE,
)
_WORDS_APART = 3  # between a number and one in words: then it is another one
_NOUN = re.compile(r"\s+(?!(?:and|or|point|times|plus|minus|percent|hundred|thousand|million)\b)[A-Za-z]{2,}")
_MAX_UNIT_WORDS = 6
_BEFORE_UNIT = re.compile(r"\s+per\s+\d+\s+|\s*-\s*|\s*")
_IN_PARENTHESES = re.compile(rf"\s*\(([A-Za-z{east_asian.LETTERS}][A-Za-z{east_asian.LETTERS} .'/\-]{{0,40}})\)")


@dataclass(frozen=True)
class Quantity:
    """Example: parse_quantity("$1,234.50") == Quantity(Fraction(2469, 2)); "50 \\%" is Quantity(Fraction(50),
    is_percent=True).
    """

    value: Fraction
    is_percent: bool = False
    dozens: Fraction | None = None  # of "2 dozen", 2: which of the two a question wants, its gold answer says

    def equals(self, gold: Quantity) -> bool:
        """Whether this is the gold value. Percent may be left out or written as a share: 50 % is 50 and 0.5 where the
        gold says 50 %, or 0.5.
        """
        mine, expected = {self.value}, {gold.value}
        if self.is_percent != gold.is_percent:
            (mine if self.is_percent else expected).add((self if self.is_percent else gold).value / 100)
        mine |= {self.dozens} if self.dozens is not None else set()
        expected |= {gold.dozens} if gold.dozens is not None else set()
        return bool(mine & expected)


def parse_quantity(answer: str) -> Quantity | None:
    """The quantity that the whole text is, or None."""
    if len(answer) > _MAX_CHARACTERS:
        return None
    text = without_parentheses(plain_form(answer))
    found = quantity_at(text, 0)
    return found[0] if found is not None and found[1] == len(text) else None


def quantity_at(text: str, start: int) -> tuple[Quantity, int] | None:
    """The longest quantity that begins at `start` of a plain form, and where it ends; None if there is none, or if what
    follows makes it part of something else.
    """
    head = _HEAD.match(text, start)
    assert head is not None  # every part of it may be empty
    if head.group(1) and head.group(3):
        return None
    amount = _amount(text, head.end())
    if amount is None:
        return None
    value, end = amount
    if power := _POWER_OF_TEN.match(text, end):
        exponent = int(next(group for group in power.groups() if group).replace(" ", ""))
        if abs(exponent) > _MAX_EXPONENT:
            return None
        value, end = value * Fraction(10) ** exponent, power.end()
    sign = -1 if "-" in (head.group(1) + head.group(3)) else 1
    value, dozens = sign * value, None
    if (multiplied := east_asian.scaled(text, end, value)) is None:
        return None
    value, end = multiplied
    if dozen := east_asian.DOZEN.match(text, end):
        value, dozens, end = value * 12, value, dozen.end()
    elif scale := _SCALE.match(text, end):
        if scale.group(1).lower() == "dozen":
            dozens = value
        value, end = value * _SCALES[scale.group(1).lower()], scale.end()
    is_percent = head.group(4) is not None
    if percent := _PERCENT.match(text, end) or east_asian.PERCENT.match(text, end):
        is_percent, end = True, percent.end()
    elif degrees := _DEGREES.match(text, end):
        end = degrees.end()
    elif currency := _TRAILING_CURRENCY.match(text, end):
        end = currency.end()
    unit_end = east_asian.end_of_unit(text, _end_of_unit(text, end))
    if unit_end is None or not _stands_alone(text, unit_end):
        return None
    return Quantity(value, is_percent, dozens), unit_end


def _amount(text: str, start: int) -> tuple[Fraction, int] | None:
    if match := _PLAIN_POWER.match(text, start):
        exponent = int((match.group(1) or match.group(2)).replace(" ", ""))
        return (Fraction(10) ** exponent, match.end()) if abs(exponent) <= _MAX_EXPONENT else None
    for form, name in _FORMS:
        match = form.match(text, start)
        if match is None:
            continue
        value = _value(name, [group for group in match.groups() if group is not None])
        if value is not None:
            return value, match.end()
    return None


def _value(form: str, parts: list[str]) -> Fraction | None:
    if form == "repeating":
        integer, fixed, repeated = parts
        scale = 10 ** len(fixed)
        return (
            Fraction(int(integer or "0"))
            + Fraction(int(fixed or "0"), scale)
            + Fraction(int(repeated), scale * (10 ** len(repeated) - 1))
        )
    values = [_decimal(part) for part in parts]
    if form == "decimal":
        return values[0]
    if form == "denominator first":
        return values[1] / values[0] if values[0] else None
    if values[-1] == 0:
        return None
    if form in ("slashed", "frac"):
        return values[0] / values[1]
    whole, numerator, denominator = values
    return whole + numerator / denominator if 0 <= numerator < denominator else None


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").rstrip("."))


def _end_of_unit(text: str, start: int) -> int:
    """Where the words of a unit end that begin at `start`; `start` if there is none."""
    if parenthesised := _IN_PARENTHESES.match(text, start):
        name = parenthesised.group(1)
        is_other = changes_the_value(name.split()) or east_asian.is_changed_behind(name)
        return start if is_other or east_asian.multiplier_behind(name) else parenthesised.end()
    end, place, words = start, start, 0
    joint = _BEFORE_UNIT.match(text, start)
    assert joint is not None
    place = joint.end()
    is_glued = place == start
    while words < _MAX_UNIT_WORDS and (word := _WORD.match(text, place)):
        name = word.group().rstrip(".")
        if (
            (changes_the_value([name]) and not COUNTS_TIMES.match(text, place) and not _is_in_phrase(text, word, words))
            or (is_glued and name not in _GLUED)
            or (len(name) == 1 and not _may_stand_alone(text, word, place))
        ):
            break
        if text[word.end() : word.end() + 1] in ("(", "["):  # f(x)
            break
        words, end = words + 1, word.end()
        if power := _WORD_POWER.match(text, end):
            end = power.end()
        is_glued = False
        following = _JOINT.match(text, end)
        if following is None or following.end() == end:
            break
        place = following.end()
    return end


def _is_in_phrase(text: str, word: re.Match[str], words: int) -> bool:
    """Whether a number in words belongs to what the unit is measured in: 120 dollars in two days."""
    if not re.fullmatch(NUMBER_WORD, word.group(), re.IGNORECASE):
        return False
    is_apart = (
        words >= _WORDS_APART or _BEFORE_NUMBER_WORD.search(text[max(0, word.start() - 80) : word.start()]) is not None
    )
    return is_apart and _NOUN.match(text, word.end()) is not None


def _may_stand_alone(text: str, word: re.Match[str], place: int) -> bool:
    """Whether a single letter is a unit ("5 m", "m/s", "km/h") and no variable, or an article inside a unit."""
    before = text[:place].rstrip()[-1:]
    return (
        word.group() in _ONE_LETTER
        or before == "/"
        or (word.group() == "a" and text[word.end() : word.end() + 1] == " ")
    )


def changes_the_value(words: list[str]) -> bool:
    """Whether one of the words makes another value of the number before it, and so is no unit."""
    return any(word.lower() in _NO_UNITS for word in words)


NUMBER_WORD = (
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty|hundred|thousand)\b"
)
_PARTS = r"(?:half|hal[fv]e?s|(?:third|fourth|(?:fif|six|seven|eigh|nin|ten|twelf|hundred|thousand|million)th)s?)"
_CONTINUES = re.compile(
    r"\s*(?:[\^_!*/+=<>:|{\\&]|-\s*[\d\\(A-Za-z]|\(|\[|\d|[A-Za-zα-ω](?![A-Za-z])(?!\.)|,\s*[-+]?\d|(?:mod|base|choose|squared|cubed|factorial|times|plus|minus|over|pi|doubled|tripled|point)\b)"
    rf"|\s*(?:{_PARTS}\b|and an? (?:half|third|quarter)\b|{NUMBER_WORD})"
    rf"|\s*,?\s*(?:and|or|to|of|by|than|(?:out of|(?:divided|increased|decreased|reduced|multiplied|followed) by"
    rf"|(?:more|less|fewer|greater) than))\s+(?:maybe |about )?{NUMBER_WORD}"
)


def _stands_alone(text: str, end: int) -> bool:
    """Whether nothing behind the quantity changes its value or makes it one of several."""
    return _CONTINUES.match(text, end) is None
