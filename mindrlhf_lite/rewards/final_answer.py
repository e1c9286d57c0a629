r"""Where a completion gives its answer: never in its thought, in <answer> where there is one, in the last \boxed{},
behind ####, after "the answer is", or at its end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mindrlhf_lite.rewards.numbers import NUMBER_WORD, Quantity, quantity_at
from mindrlhf_lite.rewards.plain_form import has_balanced_braces, plain_form

_FORMAT = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_BOXES = ("\\boxed", "\\fbox")
_STATEMENT = re.compile(
    r"(?:\b(?:answer|option|choice)\b\s{0,4}(?:\([^()\n]{0,60}\)\s{0,4})?(?:to "
    r"[^.:\n]{0,80}?)?\W{0,4}?\s{0,4}"
    r"(?:\bis\b|\bwas\b|\bequals\b|\bwould be\b|\bwill be\b|:|=|→|->)|答案[是为:：])[\s:*]*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?:[.?]|(?<![\d)\]}])!)(?=\s|\*|$)|[\n。]")  # 4! is a number
_REFUSAL = re.compile(
    r"\b(?:can(?:no|')t|cannot|unable|do(?:es)? not know|don't know|not sure|not possible|impossible|no "
    r"answer|unknown|insufficient|not enough|sorry|unclear|give up|undetermined"
    r"|dont know|refuse|undefined|not determined|indeterminate|no solution|nothing)\b",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"[\s$\\()]*(?:,|;|/|\||\band\b|\bor\b|\\text\s*\{\s*(?:and|or)\s*\}|\\quad)+[\s$\\()]*(?:and\b|or\b)?[\s$\\()]*(?:(?:maybe|perhaps|possibly)[\s$\\()]*)?"
)
# a value beside the last box that makes it one of several, or a part of an operation
_HEDGED = re.compile(
    r"[\s$\\)\]]*(?:(?:,\s*)?\bor\b\s*(?:maybe|perhaps|possibly|even)?|[|/+*^-])"
    rf"\s*[$\\(\[]*-?(?:\d|{NUMBER_WORD})",
    re.I,
)
_DENIED_BEFORE = re.compile(
    r"(?:\bnot|n't|\bcannot|\bn't be|cannot be|instead of|rather than|anything but)[\s$\\(\[*]*$", re.I
)
# behind an answer: it is no answer, or another one's part
_DENIED_BEHIND = re.compile(
    r"\s*(?:[A-Za-z]+\s+){0,2}?(?:(?:is|are|was|were)(?:\s+not|n't)\s+(?:the|right|correct|an?|it|possible|my|our|valid)\b"
    r"|(?:is|are|was|were|seems?|looks?)\s+(?:wrong|incorrect|false|impossible|invalid|too\s+\w+)\b"
    r"|(?:is|are|was|were)\s+(?:only\s+)?(?:half|twice|double|triple|an?\s+(?:half|third|quarter))\b)"
    rf"|\s*,?\s*(?:or|and)\s+(?:{NUMBER_WORD}|\$|\\)",
    re.I,
)
_RETRACTED = re.compile(r"\b(?:wait|actually|correction|scratch that|I mean|my mistake|I was wrong)\b", re.I)
_REASON = re.compile(r"\s+(?:because|since)\b|\s*\((?:see|from|as|by)\b")
_SPAN = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<![\\$\w])\$(?!\s*\d[\d,.]*\s)([^$\n]+?)(?<!\\)\$(?!\d)", re.DOTALL
)
_NUMBER_START = re.compile(r"(?<![\w.\\])(?:\d|\.\d)|(?<![\w.])\\frac(?![A-Za-z])|(?<=>>)\d")
_SIGN_BEFORE = re.compile(r"(?:^|(?<=[\s=(:,]))(?:[-+]\s?)?(?:US\$|Rs\.?\s?|[$€£¥₹₩]\s?)?(?:[-+]\s?)?$")
# what stands right before the last number of a sentence that it is not the answer of
_PART_OF_MORE = re.compile(
    r"\d[\d.,]*\s*(?:[A-Za-z]+\s+)?(?:or|and|to|through|versus|vs\.?|(?:out\s+)?of)\s*$"  # 3 or 4; 10 to 12; 18 of 20
    r"|\d\s*[,;]\s*(?:and|or)?\s*$|\d\W{0,3}(?:or|and)\W{1,3}[A-Za-z]\s*=\s*$"  # 1, 2, 4; x = 1 or x = 2
    r"|[\d)\]}A-Za-z%]\s*[-+*/^×·<|]\s*$|(?<!>)(?<![-=])>\s*$|\d\s*[:–—]\s*$|[\^_{\\]\s*$|[})\]]$|==\s*$"
    r"|\\(?:times|cdot|div|pm|mp|sqrt|log|ln|le|ge|ne|approx)\s*[({\[]?\s*$"
    r"|(?:\w+n't|\bcannot|\bnot)(?:\s+be|\s+equal(?:\s+to)?)?\s*\(?\s*$"
    r"|\b(?:(?:half|third|quarter|root|square|cube|double|triple) of|(?:divided|multiplied) by"
    r"|either|never|negative|anything but|instead of|rather than|other than|except|between|than|least|most"
    r"|up from|down from|exceeds?|exceeding|below|above|over|under|twice|thrice|double|triple|plus|minus|times"
    r"|sqrt|squared?|log|ln|sin|cos|tan|choose|base|mod|modulo"
    r"|step|question|problem|equation|chapter|page|line)\s*\(?\s*$",
    re.IGNORECASE,
)
_OPERAND_ENDS = frozenset("0123456789)]}%")  # what a sign behind is an operator of
_LONGEST_PHRASE = 300


@dataclass(frozen=True)
class Answer:
    """Example: Answer("18", is_exact=True) of "... \\boxed{18}"; Answer("18 dollars a day", is_exact=False) of "The
    answer is 18 dollars a day."
    """

    text: str
    is_exact: bool  # marked as the answer and nothing else; otherwise a phrase that holds it


def answer_block(text: str) -> str | None:
    """The content of the last <answer>...</answer>, or None."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return text[start + len("<answer>") : end] if start >= 0 else None


def has_think_answer_format(text: str) -> bool:
    """Whether the whole text is one <think>..</think> followed by one <answer>..</answer> with something in it, white
    space aside.
    """
    match = _FORMAT.fullmatch(text) if all(text.count(tag) == 1 for tag in _TAGS) else None
    return match is not None and bool(match.group(2).strip())


def without_thought(text: str) -> str | None:
    """What comes after the thought; None if it never ends."""
    _, end, after = text.rpartition("</think>")
    if "<think>" in after:
        return None
    return after if end else text


def answering_part(text: str) -> str | None:
    """Where the answer has to be: behind the thought, and inside <answer> where there is one. None: a thought or an
    answer was begun and never ended.
    """
    part = without_thought(text)
    if part is None or "<answer>" not in part:
        return part
    return answer_block(part)


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""(start, end, content) of every complete \boxed{...}, braces balanced, in order of their ends. One pass over the
    text.
    """
    opened: list[tuple[int, int]] = []  # (start of the box or -1, start of the content) of open braces
    found = []
    for index, character in enumerate(text):
        if character == "{" and not text.endswith("\\", 0, index):
            before = text[max(0, index - 12) : index].rstrip()
            name = next((name for name in _BOXES if before.endswith(name)), None)
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
    return _row_of_boxes(text, _outermost(boxes(text)))


def unhedged_box(text: str) -> str | None:
    r"""`last_boxed`, or None where the text around it takes it back: "not \boxed{1}", "\boxed{1} or 2"."""
    outer = _outermost(boxes(text))
    if not outer or _HEDGED.match(text, outer[-1][1]) or _DENIED_BEHIND.match(text, outer[-1][1]):
        return None
    return None if _DENIED_BEFORE.search(text[max(0, outer[-1][0] - 30) : outer[-1][0]]) else _row_of_boxes(text, outer)


def _row_of_boxes(text: str, outer: list[tuple[int, int, str]]) -> str | None:
    """The content of the last of these boxes, with those that are joined to it."""
    if not outer:
        return None
    parts = [outer[-1]]
    for box in reversed(outer[:-1]):
        if not _JOINED.fullmatch(text[box[1] : parts[0][0]]):
            break
        parts.insert(0, box)
    return ", ".join(content for _, _, content in parts)


def _outermost(found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    kept: list[tuple[int, int, str]] = []
    for box in found:  # by their ends: an outer one comes after those in it
        while kept and kept[-1][0] > box[0]:
            kept.pop()
        kept.append(box)
    return kept


def final_answer(text: str, is_cut: bool = False) -> Answer | None:
    """The answer of a completion, or None if it gives none.

    Args: is_cut: the completion was ended by its length: a number at its very end may lack digits.
    """
    part = answering_part(text)
    if part is None or not part.strip():
        return None
    is_cut = is_cut and not part[-1].isspace()  # a blank behind a number: it has all its digits
    if any(name in part for name in _BOXES):
        boxed = unhedged_box(part)
        return Answer(boxed, True) if boxed is not None and boxed.strip() else None
    if "####" in part:
        line = part.rpartition("####")[2].strip().partition("\n")[0]
        return Answer(line, False) if line and not (is_cut and part.endswith(line)) else None
    return _stated(part, is_cut)


def _stated(part: str, is_cut: bool) -> Answer | None:
    """The last "the answer is ...", or what the text ends with."""
    start, statement = 0, None
    for statement in _STATEMENT.finditer(part):
        start = statement.end()
    rest = part[start:].strip()
    if statement is not None:
        end = _SENTENCE_END.search(rest)
        phrase = _REASON.split(rest[: end.start()] if end else rest, maxsplit=1)[0].strip("* ")
        following = rest[end.end() :] if end else ""
        if _RETRACTED.search(following) and any(character.isdigit() for character in following):
            return _ending(following, is_cut)
        if phrase and not (is_cut and end is None):
            if _REFUSAL.search(phrase):  # which may be the answer: "no solution"
                return None if any(character.isdigit() for character in phrase) else Answer(phrase, False)
            if (
                any(character.isdigit() or character == "$" for character in phrase)
                or end is None
                or not rest[end.end() :].strip()
            ):
                return Answer(phrase, False)
    return _ending(rest, is_cut)


def _ending(text: str, is_cut: bool) -> Answer | None:
    """The last sentence with a number in it, or a short text as a whole."""
    numbers = list(re.finditer(r"\d", text[-_LONGEST_PHRASE * 4 :]))
    if not numbers:
        return Answer(text, False) if 0 < len(text) <= _LONGEST_PHRASE and not _REFUSAL.search(text) else None
    tail = text[-_LONGEST_PHRASE * 4 :]
    last = numbers[-1].end()
    if is_cut and last == len(tail):
        return None
    if _REFUSAL.search(tail[last:]):
        return None
    start = 0
    for end in _SENTENCE_END.finditer(tail, 0, last):
        start = end.end()
    following = _SENTENCE_END.search(tail, last)
    if following and following.group() == "?":
        return None
    phrase = tail[start : following.start() if following else len(tail)].strip()
    return Answer(phrase, False) if has_balanced_braces(phrase) else None  # half a formula


def math_spans(phrase: str) -> list[str]:
    """The formulas between dollars, \\( \\) or \\[ \\], in order; a dollar before an amount of money opens none."""
    return [next(group for group in match.groups() if group is not None) for match in _SPAN.finditer(phrase)]


def quantity_in(phrase: str) -> Quantity | None:
    """The one quantity that a phrase ends up with: its last number, unless that is part of a list, a range, an
    operation or a denial.
    """
    text = plain_form(phrase)
    found: Quantity | None = None
    place = 0
    while match := _NUMBER_START.search(text, place):
        sign = _SIGN_BEFORE.search(text, 0, match.start())
        start = sign.start() if sign is not None else match.start()
        read = quantity_at(text, start)
        if read is None:
            found, place = None, _end_of_digits(text, match.end())
            continue
        before = text[max(0, start - 60) : start]
        is_operand = text[start] in "+-" and before.rstrip()[-1:] in _OPERAND_ENDS and before.strip() != ""
        refused = is_operand or is_part_of_more(before, text[read[1] :])
        found, place = (None if refused else read[0]), read[1]
    return found


def is_part_of_more(before: str, behind: str) -> bool:
    """Whether what stands beside a value denies it, or makes it a part of an operation or a list."""
    return _PART_OF_MORE.search(before[-60:]) is not None or _DENIED_BEHIND.match(behind[:80]) is not None


def _end_of_digits(text: str, start: int) -> int:
    end = start
    while end < len(text) and (text[end].isdigit() or text[end] in ".,"):
        end += 1
    return end
