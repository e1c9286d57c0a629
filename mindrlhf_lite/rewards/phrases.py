r"""Sentences around an answer: what follows a number without changing it, which of several formulas is the value, and
arithmetic in words.
"""

from __future__ import annotations

import re

from mindrlhf_lite.rewards.numbers import NUMBER_WORD, parse_quantity
from mindrlhf_lite.rewards.plain_form import plain_form

_AMOUNT = rf"(?:[-+]?[$€£¥]?\s*\d[\d.,]*%?|{NUMBER_WORD})"
# behind a quantity: a comparison with another one, which is not the answer
_ASIDE = re.compile(
    rf"(?<=[\w%°$)}}])\s*(?:,\s*|\(\s*|\s[-–—]+\s|\s(?=which|not\b|rather|instead|as opposed|compared))"
    r"(?:which|that|and)?\s*(?:is|are|was|were)?\s*(?:also|still|just|exactly|clearly|obviously|indeed|much|only|far|well)?\s*"
    rf"(?:{_AMOUNT}\s+(?:\w+\s+)?)?(?:(?:less|more|greater|fewer|larger|smaller|bigger|lower|higher|longer|shorter|better|closer|older|younger)\s+(?:than|to)"
    r"|not|rather than|instead of|as opposed to|compared (?:to|with)"
    r"|(?:well )?(?:below|above|under|over|within|beyond))\s+"
    rf"(?:the\s+|about\s+|an?\s+)?(?:[\w']+\s+(?:of\s+)?){{0,3}}{_AMOUNT}[^.;]{{0,40}}$",
    re.IGNORECASE,
)
_LONGEST_ASIDE = 160
_EAST_ASIAN_ASIDE = re.compile(
    r"\s*(?:[,，(（]\s*(?:而|并)?(?:不是|非|不等于)|而(?:不是|非))\s*[(（$]*(?:\d|[A-J](?![A-Za-z]))[^。]{0,12}$"
)
_SAYS = re.compile(
    r"(?:\b(?:is|are|equals|be|becomes|gives|get|was|equal to|as"
    r"|(?:is|are) (?:the|an?) (?:open |closed |half-open |ordered |real )?(?:interval|set|point|pair|triple|vector"
    r"|matrix|number|value|line|fraction|expression|polynomial|function|list|integers?|numbers|values|solutions?))|[=:]|[是为為等于]+|は|은|는|이|가)[\s$\\(]*$",
    re.IGNORECASE,
)
_DISTORTED = re.compile(
    r"\b(?:twice|thrice|half|double|triple|third|quarter|square|cube|root|not|never|or|either"
    r"|if and only if|unless|less|more|than|at least|at most"
    r"|opposite|negative|reciprocal|inverse)\b|n't\b|或|不|または|또는",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"\b(?:when|for|where|at|if|since|because|from|given|with|let|as|using|substituting|setting)\s*(?:that\s+)?[\s$\\(]*$|[当當若设設]\s*$",
    re.IGNORECASE,
)
_TIMES = re.compile(r"(?<=[\d)%])\s*[xX]\s*(?=[-$(]?\s*\.?\d)")
_FRACTION_OF = re.compile(r"(\d+\s*/\s*\d+|\\frac\{\d+\}\{\d+\})\s+of\s+(?=[-$(]?\s*\d)", re.IGNORECASE)
_PERCENT_OF = re.compile(r"(\d+(?:\.\d+)?)\s*(?:%|percent)\s*of\s*(?=[-$(]?\s*\d)", re.IGNORECASE)
_UNIT_IN_SUM = re.compile(
    r"(?<=\d)\s*(?:dollars?|cents?|units?|cm|m|km|kg|g|hours?|minutes?|days?|weeks?|[a-z]+s)\b(?!\s*of\b)",
    re.IGNORECASE,
)

_ALIGNED = ("align", "aligned", "gather", "gathered", "equation", "split", "eqnarray", "multline")
_LAST_END = re.compile(r"\\end\s*\{([a-z]+)\*?\}[\W_]*$")
_NUMBERED = re.compile(r"\s*(\\?[A-Za-z](?:_\w+)?)\s*&?=\s*&?\s*(-?\d(?:[\d.,]*\d)?)\s*[,.]?\s*")


def without_aside(phrase: str) -> str:
    """ "42, which is less than 50" is 42."""
    start = max(0, len(phrase) - _LONGEST_ASIDE)
    aside = _ASIDE.search(phrase, start) or _EAST_ASIAN_ASIDE.search(phrase, start)
    is_behind_a_value = aside is not None and re.search(r"\d|[A-J]$", phrase[: aside.start()]) is not None
    return phrase[: aside.start()] if aside and is_behind_a_value else phrase


def value_said_last(phrase: str, spans: list[str]) -> bool:
    """Whether the last formula of a sentence is the value of what the others name: "the value of $x$ is $27$", "when
    $x = 3$, it is $27$".
    """
    place = 0
    for span in spans[:-1]:
        start = phrase.find(span, place)
        before, place = phrase[place:start], start + len(span)
        is_value = parse_quantity(span) is not None or "=" in span
        if is_value and not _CONDITION.search(before.rstrip("$\\( ")):
            return False
    last = phrase.find(spans[-1], place)
    before = phrase[:last].rstrip("$\\([ ")
    return _SAYS.search(before + " ") is not None and _DISTORTED.search(plain_form(before)) is None


def as_arithmetic(side: str) -> str:
    """One side of an equation in words as a formula: 4 x $5 is 4 \\times 5, 80% of $400 is (80/100) \\times 400."""
    side = _PERCENT_OF.sub(r"(\1/100) \\times ", _TIMES.sub(r" \\times ", side))
    side = _FRACTION_OF.sub(r"(\1) \\times ", side)
    return _UNIT_IN_SUM.sub("", side)


def last_line(text: str) -> str | None:
    r"""What the last aligned formula of a text ends with, where nothing but signs follows it: "20" of
    "x &= 5 + 15 \\ &= 20"; of lines that give values to several names all of them, "x=2, y=3". None: there is none.
    """
    ends = text.rfind("\\end")
    end = _LAST_END.match(text, ends) if ends >= 0 else None
    if end is None or end[1] not in _ALIGNED:
        return None
    begins = text.rfind("\\begin", 0, ends)
    inside = re.sub(r"^\\begin\s*\{[a-z]+\*?\}", "", text[begins:ends]) if begins >= 0 else ""
    lines = [line.strip(" &\n") for line in re.split(r"\\\\(?:\[[^\]]*\])?", inside) if line.strip(" &\n")]
    named = {match[1]: match[2] for line in lines if (match := _NUMBERED.fullmatch(line))}
    if len(named) > 1:
        return ", ".join(f"{name}={value}" for name, value in named.items())
    if not lines or "=" not in lines[-1] or lines[-1].endswith("="):
        return None
    return lines[-1].rpartition("=")[2].replace("&", " ").strip()
