r"""Mathematics as it is typed without LaTeX, as LaTeX: 2pi, sqrt(13), x^(1/2), ln(2), 2**3, <=; and the array in
brackets that is a matrix, the braceless \boxed 18.
"""

from __future__ import annotations

import re

_ROOT_SIGN = re.compile(r"([√∛∜])\s*(?=(\(|\{|\d+(?:\.\d+)?|[A-Za-zπ])?)")
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_ROOT_WORD = re.compile(r"(?<![A-Za-z\\])(sqrt|cbrt)\s*(?=(\(|\{|\d+(?:\.\d+)?|(?<=\s)[A-Za-z](?![A-Za-z])))")
_ROOT_WORDS = {"sqrt": r"\sqrt", "cbrt": r"\sqrt[3]"}
_FUNCTION = re.compile(
    r"(?<![A-Za-z\\])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|ln|log|exp)(?=\s*\(|\^|_\s*[\w{]|\s+\d)"
)
_CONSTANT = re.compile(r"(?<![A-Za-z\\])(pi|theta|infinity|infty)(?![A-Za-z])")
_CONSTANTS = {"pi": r"\pi ", "theta": r"\theta ", "infinity": r"\infty ", "infty": r"\infty "}
_BARE_WORD = re.compile(r"[A-Za-z]+")
_POWER = re.compile(r"(?<=[\w)}\]])\s*\*\*\s*(?=[\w({-])")
_RELATIONS = (("<=", r"\le "), (">=", r"\ge "), ("!=", r"\ne "))
_CIS = re.compile(r"\\?(?<![A-Za-z])cis\s*(?=\(|\{|\\frac|\\pi|\d|-|[a-z](?![a-z]))")
_DEGREES_INSIDE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:°|\^\s*\{?\s*\\circ\s*\}?)")
_ARGUMENT_END = re.compile(r"\\frac\s*(?:\{[^{}]*\}\s*){2}|(?:\d+(?:\.\d+)?)?\s*\\?[a-z]*(?:\s*/\s*\d+)?")

_ARRAY = re.compile(
    r"[(\[]\s*\\begin\s*\{(?:array|matrix|smallmatrix)\}\s*(?:\{[lcr|\s]*\})?(.*?)\\end\s*\{(?:array|matrix|smallmatrix)\}\s*[)\]]",
    re.DOTALL,
)
_MATRIX = re.compile(r"\{(?:[bB]|small|psmall|bsmall)matrix\}")


def as_latex(text: str) -> str:
    """The text with plain mathematics in LaTeX; what is LaTeX already, and words, stay."""
    text = _with_roots(_with_roots(text, _ROOT_SIGN, _ROOTS), _ROOT_WORD, _ROOT_WORDS)
    text = _FUNCTION.sub(r"\\\1", text)
    if not _BARE_WORD.fullmatch(text.strip()):  # a word alone is an answer in words
        text = _CONSTANT.sub(lambda match: _CONSTANTS[match[1]], text)
    elif text.strip() in _CONSTANTS:
        text = _CONSTANTS[text.strip()]
    text = _POWER.sub("^", text)
    for plain, latex in _RELATIONS:
        text = text.replace(plain, latex)
    return _with_braces(_without_cis(text))


def one_matrix(text: str) -> str:
    """Every bracketed matrix as pmatrix."""
    return _MATRIX.sub("{pmatrix}", _ARRAY.sub(r"\\begin{pmatrix}\1\\end{pmatrix}", text))


def _with_roots(text: str, sign: re.Pattern[str], commands: dict[str, str]) -> str:
    r"""√13 is \sqrt{13} and √(x+1) \sqrt{x+1}, where TeX would take \sqrt13 for \sqrt{1}3."""
    parts, place = [], 0
    while match := sign.search(text, place):
        parts += [text[place : match.start()], commands[match[1]]]
        place = match.end()
        operand = match[2] or ""
        if operand == "(" and (end := closing(text, place)) is not None:
            parts.append("{" + _with_roots(text[place + 1 : end], sign, commands) + "}")
            place = end + 1
        elif operand not in ("", "(", "{"):
            parts.append("{" + operand + "}")
            place += len(operand)
    return "".join([*parts, text[place:]])


def closing(text: str, start: int) -> int | None:
    """The place of the bracket that closes the one at `start`, of its kind; None: there is none."""
    opened, depth = text[start], 0
    closed = {"(": ")", "{": "}", "[": "]"}[opened]
    for index in range(start, len(text)):
        depth += (text[index] == opened) - (text[index] == closed)
        if depth == 0:
            return index
    return None


def _with_braces(text: str) -> str:
    """x^(1/2) is x^{1/2}."""
    place = 0
    while (start := text.find("^(", place)) >= 0:
        place, end = start + 2, closing(text, start + 1)
        if end is not None:
            text = f"{text[: start + 1]}{{{text[start + 2 : end]}}}{text[end + 1 :]}"
    return text


def _without_cis(text: str) -> str:
    r"""2 cis 60° is 2e^{i\frac{\pi}{3}}."""
    match = _CIS.search(text)
    if match is None:
        return text
    start = match.end()
    if text[start] in "({":
        if (end := closing(text, start)) is None:
            return text
        argument, rest = text[start + 1 : end], text[end + 1 :]
        rest = re.sub(r"^\s*°", "", rest) if (outside := re.match(r"\s*°", rest)) else rest
        argument += "°" if outside else ""
    else:
        span = _ARGUMENT_END.match(text, start + (text[start] == "-"))
        end = span.end() if span else start
        if degrees := re.match(r"\s*°", text[end:]):
            end += degrees.end()
        argument, rest = text[start:end], text[end:]
    argument = _DEGREES_INSIDE.sub(r"\\frac{\1 \\pi}{180}", argument)
    return f"{text[: match.start()]}e^{{i({argument})}}{rest}"
