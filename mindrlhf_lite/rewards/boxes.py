r"""What is in the last \boxed{} of a text, unless the text around it says that this is not the answer, or not all of
it.
"""

from __future__ import annotations

import re

from mindrlhf_lite.rewards.east_asian import (
    JOINED,
    JOINS_AT_ONCE,
    LETTERS,
    is_changed_behind,
    is_letter,
    is_part_before,
    multiplier_behind,
)
from mindrlhf_lite.rewards.numbers import COUNTS_TIMES, NUMBER_WORD, SCALE_WORD, changes_the_value

BOXES = ("\\boxed", "\\fbox")
# \boxed 18: to TeX that is a box of the 1, but it is never meant so
_BRACELESS = re.compile(
    r"\\(?:boxed|fbox)\s*((?!\s*\{)[-+]?\s*(?:\\\$)?(?:\d+(?:[.,]\d+)*|\.\d+|\\[dtc]?frac\s*(?:\{[^{}]*\}\s*|\d){2}"
    r"|\\sqrt\s*(?:\{[^{}]*\}|\d)|\\pi(?![A-Za-z])|[A-Za-z](?![A-Za-z]))(?:\\?%)?)"
)
# between two boxes: only what sets the type, words that join, and what the second one is called
_SPACING = re.compile(
    r"\\(?:q?quad|[,;:! ]|hspace\*?\{[^{}]*\}|left|right)|\\\\|\\[()\[\]]|\$|[()&~\s]"
    r"|\\(?:text|textrm|mathrm|mbox)\s*(?=\{)|[{}]|\*\*"
)
_WORD_JOINER = rf"(?:and|or|as well as|together with|resp|respectively|\\(?:wedge|land|lor|vee)|{JOINED.pattern})"
_JOINED = re.compile(
    rf" *(?:[,;/|，；]|{_WORD_JOINER})(?: *(?:[,;，；]|{_WORD_JOINER}))*"
    r"(?: *(?:also|maybe|perhaps|possibly|similarly|likewise|(?P<so>then|so|hence|thus|therefore))(?![A-Za-z]),?)*"
    r"(?: *(?:the |an)?(?:other|second|third|next|last|larger|smaller|greater|latter)"
    r"(?: [a-z]+){0,2} (?:is|=|equals|being))?"
    r"(?: *(?P<name>[^=,;.]{1,24}?) *=)? *",
    re.IGNORECASE,
)
_ONLY_SPACING = re.compile(
    r"(?:[\s$]|\\[()\[\]])*\\q?quad(?:\\q?quad|[\s$]|\\[()\[\]])*(?P<name>[^=,;.\n$\\]{1,24}?\s*=\s*)?"
)
_LONGEST_JOINT = 100
_NAME_BEFORE = re.compile(
    rf"(?:^|[\s$({{,;:&，；{LETTERS}]|\\q?quad)(\\?[A-Za-z]{{1,10}}(?:_\{{?\w+\}}?)?'*)\s*&?=\s*[$ ]*$"
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
    r"|[\s$]*\\(?:times|cdot|div|pm|mp|sqrt|[dtc]?frac|pi|bmod|mod)(?![A-Za-z])|\d|_|\^(?!\s*\{?\s*\\(?:circ|deg))",
    re.IGNORECASE,
)
_WORD_BEHIND = re.compile(r"[A-Za-z]+")
# of what stands glued to a box: a word of a sentence, no factor
_WORD_BEFORE = re.compile(
    r"(?:^|[\s.,:;(*])(?:is|are|was|be|to|get|gets|has|have|so|equals?|thus|hence|[Tt]hen|[A-Z]?[a-z]{4,})$"
)
_NO_WORDS = re.compile(
    r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?$|(?:sqrt|negative|minus|plus|times|half|twice|over)$", re.I
)
_OPERATION_BEHIND = re.compile(
    r"[\s$]*(?:times|squared|cubed|plus|minus|divided by|multiplied by|to the power|choose|factorial|modulo)\b",
    re.IGNORECASE,
)
_MODULUS = re.compile(
    r"[\s$\\,;)]*(\\pmod\s*(?:\{[^{}]*\}|\d)"
    r"|(?:\\text\s*\{\s*)?\(\s*\\?(?:bmod|mod)(?:\s|\\[ ,])*\}?\s*[$\s]*\d+[$\s]*\))"
)
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
    found += [(match.start(), match.end(), match[1]) for match in _BRACELESS.finditer(text)]
    return sorted(found, key=lambda box: box[1])


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete \boxed{...}, or None; of boxes in a row ("\boxed{1} and \boxed{2}") all, as a
    list.
    """
    row = _last_row(text)
    return _as_list(text, row) if row else None


def last_box(text: str) -> str | None:
    r"""`last_boxed`, or None where the text around it takes it back, or makes it a part of something: "not \boxed{1}",
    "\boxed{1} or 2", "2\boxed{1}". A scale or a modulus behind it is a part of it: "\boxed{2} million".
    """
    row = _last_row(text)
    if not row or _is_part(text[max(0, row[0][0] - 100) : row[0][0]], text[row[-1][1] : row[-1][1] + 100]):
        return None
    answer, end = _as_list(text, row), row[-1][1]
    if scale := _SCALED.match(text, end):
        return f"{answer} {scale[1]}"
    if modulus := _MODULUS.match(text, end):
        return f"{answer} {modulus[1]}"
    return answer + multiplier_behind(text[end : end + 20])


def _as_list(text: str, row: list[tuple[int, int, str]]) -> str:
    """The contents of several boxes as a list, each with its name where every one has one: "x=2, y=3"."""
    contents = [content for _, _, content in row]
    if len(row) > 1:
        names = [_NAME_BEFORE.search(text[max(0, start - 30) : start]) for start, _, _ in row]
        if all(names) and not any("=" in content for content in contents):
            contents = [f"{name[1]}={content}" for name, content in zip(names, contents, strict=True) if name]
    return ", ".join(contents)


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
    if before[-1:].isalnum() and not command and not is_letter(before[-1]) and not _is_word(before):
        return True
    if is_part_before(before) or is_changed_behind(behind.lstrip(" $")) or JOINS_AT_ONCE.match(behind):
        return True
    if _OPERAND_BEFORE.search(before) or _DENIED_BEFORE.search(before):
        return True
    word = _WORD_BEHIND.match(behind)
    if word and (len(word.group()) == 1 or (changes_the_value([word.group()]) and not COUNTS_TIMES.match(behind))):
        return True
    if _OPERATION_BEHIND.match(behind) and not COUNTS_TIMES.match(behind.lstrip("$")):
        return True
    return _HEDGED.match(behind) is not None or DENIED_BEHIND.match(behind) is not None


def _is_word(before: str) -> bool:
    """Whether what stands glued to a box is a word of the sentence: "the answer is\\boxed{18}", and no factor."""
    return _WORD_BEFORE.search(before) is not None and _NO_WORDS.search(before) is None


def _last_row(text: str) -> list[tuple[int, int, str]]:
    """The last of the outermost boxes, with those that are joined to it."""
    outer = _outermost(boxes(text))
    parts = outer[-1:]
    for box in reversed(outer[:-1]):
        if not _is_joint(text[max(0, box[0] - 30) : box[0]], text[box[1] : parts[0][0]]):
            break
        parts.insert(0, box)
    return parts


def _is_joint(before: str, between: str) -> bool:
    """Whether what stands between two boxes makes one list of them. before: what stands before the first."""
    if len(between) > _LONGEST_JOINT or "####" in between:
        return False
    first, second = _NAME_BEFORE.search(before), _NAME_BEFORE.search(between)
    are_named = first is not None and second is not None and first[1] != second[1]
    words = " ".join(_SPACING.sub(" ", between).split())
    if joined := _JOINED.fullmatch(words):
        return are_named or not joined["so"]
    if _ONLY_SPACING.fullmatch(between):
        return True
    # lines of their own: x = ..., y = ...
    return are_named and second is not None and not _SPACING.sub("", between[: second.start()]).strip(".")


def _outermost(found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    kept: list[tuple[int, int, str]] = []
    for box in found:  # by their ends: an outer one comes after those in it
        while kept and kept[-1][0] > box[0]:
            kept.pop()
        kept.append(box)
    return kept
