r"""One plain form for the many ways to write an answer: LaTeX dress, Unicode signs and Markdown off, values untouched.

Never drops what changes a value: signs, exponents, subscripts, roots, constants and factorials stay.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from mindrlhf_lite.rewards.plain_math import as_latex, one_matrix

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_VULGAR = {
    "½": "1/2",
    "⅓": "1/3",
    "⅔": "2/3",
    "¼": "1/4",
    "¾": "3/4",
    "⅕": "1/5",
    "⅖": "2/5",
    "⅗": "3/5",
    "⅘": "4/5",
    "⅙": "1/6",
    "⅚": "5/6",
    "⅐": "1/7",
    "⅛": "1/8",
    "⅜": "3/8",
    "⅝": "5/8",
    "⅞": "7/8",
    "⅑": "1/9",
    "⅒": "1/10",
}
_VULGAR_SIGN = re.compile("[" + "".join(_VULGAR) + "]")
_SIGNS = {
    "−": "-",
    "﹣": "-",
    "－": "-",
    "‐": "-",
    "‑": "-",
    "×": r"\times ",
    "÷": "/",
    "∕": "/",
    "⁄": "/",
    "·": r"\cdot ",
    "∙": r"\cdot ",
    "⋅": r"\cdot ",
    "π": r"\pi ",
    "∞": r"\infty ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "±": r"\pm ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "≈": r"\approx ",
    "…": "...",
    "’": "'",
    "‘": "'",
    "“": '"',
    "”": '"',
    "∅": r"\emptyset ",
}
_SIGN = re.compile("[" + "".join(_SIGNS) + "]")

# what only sets the type, not the value
_SPACES = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad\b|\\hspace\*?\{[^{}]*\}|\\(?:thin|med|thick)space\b")
_NOTHING = re.compile(
    r"\\!|\\(?:display|text|script)style\b|\\limits\b|\\(?:left|right)(?![A-Za-z])\.?|\\(?:[bB]igg?)[lrm]?(?![A-Za-z])|\\mathstrut\b|\\phantom\{[^{}]*\}|\\(?:text)?color\s*\{[^{}]*\}|\\(?:tiny|small|large|Large|LARGE|huge|Huge)\b|\\bf\b|\\rm\b|\\it\b"
)
_THIN_COMMA = re.compile(r"(?<=\d),\\!\s*(?=\d{3})")
_BRACED_COMMA = re.compile(r"\s?\{\s?,\s?\}\s?(?=\d)|\{,\}")
_UNFINISHED = re.compile(r",\s*(?:\.\.\.|\\[lc]?dots(?![A-Za-z]))[\s.]*$")  # 1, 2, ... is no list of two
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|texttt|textsf|mathrm|mathbf|mathit|mathsf|mathtt|mbox|hbox|operatorname\*?|emph|bm|boldsymbol|underline|fbox|boxed)\s*\{([^{}]*)\}"
)
_DEGREES = re.compile(
    r"\^\s*\{\s*\\(?:circ|degree|deg)\s*\}|\^\s*\\(?:circ|degree|deg)(?![A-Za-z])|\\(?:degree|textdegree)(?![A-Za-z])"
)
_DOLLARS = re.compile(r"(?<!\\)\$([^$]+?)(?<!\\)\$")
_BARE_DOLLAR = re.compile(r"\\\$")
_MARKDOWN = re.compile(r"(\*\*|__|`)(.+?)\1", re.DOTALL)
_EMPHASIS = re.compile(r"(?<![^\s(])\*([^*\s][^*]*)\*(?![\w*])")
_EN_DASH = re.compile(r"\u2013(?=\d)")
_NEGATIVE = re.compile(
    r"(?:[负負]|マイナス|마이너스)\s*(?=[\d.\\])|\bnegative\s+(?=[\d.\\])|(?:^|(?<=is )|(?<== ))minus\s+(?=[\d.\\])",
    re.IGNORECASE,
)
_OHM = re.compile(r"(?<=\d)\s*\\Omega(?![A-Za-z])")
_BLANKS = re.compile(r"\s+")
_DRESS = re.compile(r"\\(?:math(?:bf|rm|it|sf|tt)|text(?:bf|rm|it)?|boldsymbol|bm|boxed)\s*(?=\{)")
_SHORT = 200  # characters of answers whose plain form is kept
_MAX_NESTED = 20  # braces or parentheses around everything
_LONGEST_FORMULA = 2000  # in which plain mathematics is looked for
_TEXT_DEPTH = 4  # \textbf{\text{...}}


def plain_form(answer: str) -> str:
    r"""The answer without dress: "\( \dfrac{3}{4}\,\text{cm} \)." gives "\frac{3}{4} cm"; "−3" gives "-3"; "$18$" gives
    "18"; "\$18" gives "$18".
    """
    return _plain_form_of_short(answer) if len(answer) <= _SHORT else _plain_form(answer)


def _plain_form(answer: str) -> str:
    text = _RAISED.sub(lambda match: "^{" + match.group().translate(_SUPERSCRIPTS) + "}", answer)
    text = _VULGAR_SIGN.sub(lambda match: f" {_VULGAR[match.group()]} ", text)
    text = _SIGN.sub(lambda match: _SIGNS[match.group()], text)
    text = unicodedata.normalize("NFKC", text)  # full-width digits, thin and hard spaces
    text = _EN_DASH.sub("-", _EMPHASIS.sub(r"\1", _MARKDOWN.sub(r"\2", text)))
    for delimiter in ("\\(", "\\)", "\\[", "\\]", "$$"):
        text = text.replace(delimiter, " ")
    text = _NOTHING.sub("", _THIN_COMMA.sub(",", text))
    text = _DOLLARS.sub(r" \1 ", text)
    text = _BARE_DOLLAR.sub("$", text)
    text = _BRACED_COMMA.sub(",", text)
    text = text.replace("\\%", "%").replace("\\#", "#").replace("\\_", "_").replace("\\&", "&")
    text = text.replace("\\pounds", "£").replace("\\euro", "€")
    text = _SPACES.sub(" ", text)
    text = _FRACTION.sub(r"\\frac", text)
    text = _DEGREES.sub("°", text)
    for _ in range(_TEXT_DEPTH):
        text, found = _TEXT.subn(r" \1 ", text)
        if not found:
            break
    text = _OHM.sub(" ohm", text.replace("\\varnothing", "\\emptyset"))
    text = _NEGATIVE.sub("-", text)
    text = as_latex(one_matrix(text)) if len(text) <= _LONGEST_FORMULA else text
    text = _BLANKS.sub(" ", text).strip().strip('"')
    dots = ", ..." if _UNFINISHED.search(text) else ""
    return _without_braces(text.rstrip(".,;:。 ").lstrip("= ").strip()) + dots


_plain_form_of_short = lru_cache(maxsize=4096)(_plain_form)  # a gold answer is read for every completion


def _without_braces(text: str) -> str:
    """{18} is 18; {1}{2} and \\{1\\} stay."""
    for _ in range(_MAX_NESTED):
        inner = text[dress.end() :] if (dress := _DRESS.match(text)) else text
        if not (len(inner) > 2 and inner[0] == "{" and inner[-1] == "}" and _closes_at_end(inner, "{", "}")):
            break
        text = inner[1:-1].strip()
    return text


def _closes_at_end(text: str, opening: str, closing: str) -> bool:
    depth = 0
    for index, character in enumerate(text):
        depth += (character == opening) - (character == closing)
        if depth == 0:
            return index == len(text) - 1
    return False


def without_parentheses(text: str) -> str:
    """(18) is 18; (1)(2) and (1, 2) stay."""
    for _ in range(_MAX_NESTED):
        if not (len(text) > 2 and text[0] == "(" and text[-1] == ")" and "," not in text):
            break
        if not _closes_at_end(text, "(", ")"):
            break
        text = text[1:-1].strip()
    return text


def has_balanced_braces(latex: str) -> bool:
    """Whether every { has its }, escaped ones aside, and every \\sqrt[ its ]. Brackets alone need no partner: [0, 1) is
    an interval.
    """
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", latex):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0 and not re.search(r"\\sqrt\[[^\]]*$", latex)
