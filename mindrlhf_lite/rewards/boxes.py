r"""What is in the last \boxed{} of a text, unless the text around it says that this is not the answer, or not all of
it.
"""

from __future__ import annotations

import re

from mindrlhf_lite.rewards.numbers import NUMBER_WORD, SCALE_WORD, changes_the_value

BOXES = ("\\boxed", "\\fbox")
_JOINED = re.compile(
    r"[\s$\\()]*(?:,|;|/|\||\band\b|\bor\b|\\text\s*\{\s*(?:and|or)\s*\}|\\quad)+[\s$\\()]*(?:and\b|or\b)?[\s$\\()]*(?:(?:maybe|perhaps|possibly)[\s$\\()]*)?"
)
_OPERATORS = r"times|cdot|div|pm|mp|neq?|leq?|geq?|lt|gt|not|log|ln|sin|cos|tan|sqrt|[dtc]?frac"
_COMMAND = re.compile(r"\\([A-Za-z]+)\*?[\s$]*$")
_COMMAND_AROUND = re.compile(r"(?:\\([A-Za-z]+)\*?(?:\[[^\]]*\])?|([\^_]))\s*\{\s*$|\\[dtc]?frac\s*\{[^{}]*\}\s*\{\s*$")
_DRESS = frozenset(
    "text textbf textit textrm mathbf mathrm mathit boldsymbol bm emph underline ensuremath large Large huge".split()
)
# beside the box: a part of a formula, one of several values, a denial
_OPERAND_BEFORE = re.compile(
    r"(?:[+/^_|]|(?<![</])<)[\s$(\[]*$"
    r"|(?:[\d)}]|\b[A-Za-z])[ \t]*[-*][ \t]*[$(\[]*$|(?:^|[\s$(=:])-[$(\[]*$"  # 20 - [18]; -[18]; no bullet
    r"|[^\s=>-][ \t]*(?<![A-Za-z/])>[\s$(\[]*$"
)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|cannot|either|or|instead of|rather than|anything but)|n't|\d[\s$]*\band)(?:\s+be)?[\s$\\(\[*]*$"
    r"|\\text\s*\{\s*(?:or|and|not)\s*\}[\s$]*$"
    r"|(?:\b(?:do|does|did)(?:n't| not) (?:think|believe)|\bdoubt)\b[^.\n]{0,60}$",
    re.IGNORECASE,
)
_HEDGED = re.compile(
    r"[\s$\\)\]]*(?:(?:,\s*)?\b(?:or|and)\b\s*(?:maybe|perhaps|possibly|even)?|[|/+*^,;-])"
    rf"\s*[$\\(\[]*-?(?:\d|{NUMBER_WORD})"
    r"|[\s$]*\\(?:times|cdot|div|pm|mp|sqrt|[dtc]?frac|pi|pmod|bmod)(?![A-Za-z])|\d|_|\^(?!\s*\{?\s*\\(?:circ|deg))",
    re.IGNORECASE,
)
_WORD_BEHIND = re.compile(r"[A-Za-z]+")
_SCALED = re.compile(rf"[\s$]*({SCALE_WORD})s?\b", re.IGNORECASE)
# behind an answer: it is no answer, or another one's part
DENIED_BEHIND = re.compile(
    r"\s*(?:[A-Za-z]+\s+){0,2}?(?:(?:is|are|was|were)(?:\s+not|n't)\s+(?:the|right|correct|an?|it|possible|my|our|valid)\b"
    r"|(?:is|are|was|were|seems?|looks?)\s+(?:wrong|incorrect|false|impossible|invalid|too\s+\w+)\b"
    r"|(?:is|are|was|were)\s+(?:only\s+)?(?:half|twice|double|triple|an?\s+(?:half|third|quarter))\b)"
    rf"|\s*,?\s*(?:or|and)\s+(?:(?:maybe|possibly|perhaps|probably|even)\s+)?(?:{NUMBER_WORD}|\$|\\)",
    re.I,
)


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""(start, end, content) of every complete \boxed{...}, braces balanced, in order of their ends. One pass over the
    text.
    """
    opened: list[tuple[int, int]] = []  # (start of the box or -1, start of the content) of open braces
    found = []
    for index, character in enumerate(text):
        if character == "{" and not text.endswith("\\", 0, index):
            before = text[max(0, index - 12) : index].rstrip()
            name = next((name for name in BOXES if before.endswith(name)), None)
            opened.append((index - len(name) if name else -1, index + 1))
        elif character == "}" and opened and not text.endswith("\\", 0, index):
            start, content = opened.pop()
            if start >= 0:
                found.append((start, index + 1, text[content:index]))
    return found


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete \boxed{...}, or None; of boxes in a row ("\boxed{1} and \boxed{2}") all, as a
    list.
    """
    row = _last_row(text)
    return ", ".join(content for _, _, content in row) if row else None


def last_box(text: str) -> str | None:
    r"""`last_boxed`, or None where the text around it takes it back, or makes it a part of something: "not \boxed{1}",
    "\boxed{1} or 2", "2\boxed{1}". A scale behind it is a part of it: "\boxed{2} million".
    """
    row = _last_row(text)
    if not row or _is_part(text[max(0, row[0][0] - 100) : row[0][0]], text[row[-1][1] : row[-1][1] + 100]):
        return None
    scale = _SCALED.match(text, row[-1][1])
    return ", ".join(content for _, _, content in row) + (f" {scale[1]}" if scale else "")


def text_behind_boxes(text: str) -> str:
    """What follows the last box."""
    row = _last_row(text)
    return text[row[-1][1] :] if row else text


def _is_part(before: str, behind: str) -> bool:
    around = _COMMAND_AROUND.search(before)
    if around and (around[1] is None or around[1] not in _DRESS):
        return True
    command = _COMMAND.search(before)
    if command and re.fullmatch(_OPERATORS, command[1]):
        return True
    if before[-1:].isalnum() and not command:
        return True
    if _OPERAND_BEFORE.search(before) or _DENIED_BEFORE.search(before):
        return True
    word = _WORD_BEHIND.match(behind)
    if word and (len(word.group()) == 1 or changes_the_value([word.group()])):
        return True
    return _HEDGED.match(behind) is not None or DENIED_BEHIND.match(behind) is not None


def _last_row(text: str) -> list[tuple[int, int, str]]:
    """The last of the outermost boxes, with those that are joined to it."""
    outer = _outermost(boxes(text))
    parts = outer[-1:]
    for box in reversed(outer[:-1]):
        if not _JOINED.fullmatch(text[box[1] : parts[0][0]]):
            break
        parts.insert(0, box)
    return parts


def _outermost(found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    kept: list[tuple[int, int, str]] = []
    for box in found:  # by their ends: an outer one comes after those in it
        while kept and kept[-1][0] > box[0]:
            kept.pop()
        kept.append(box)
    return kept
