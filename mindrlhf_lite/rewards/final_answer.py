r"""Where a completion gives its answer: never in its thought, in <answer> where there is one, in the last \boxed{},
behind ####, after "the answer is", or at its end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mindrlhf_lite.rewards.boxes import BOXES, DENIED_BEHIND, last_box, text_behind_boxes
from mindrlhf_lite.rewards.east_asian import LETTERS, STATEMENT, is_part_before
from mindrlhf_lite.rewards.numbers import Quantity, quantity_at
from mindrlhf_lite.rewards.phrases import last_line, without_aside
from mindrlhf_lite.rewards.plain_form import has_balanced_braces, plain_form

_FORMAT = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_STATEMENT = re.compile(
    r"(?:\b(?:answer|option|choice)\b\s{0,4}(?:\([^()\n]{0,60}\)\s{0,4})?(?:to "
    r"[^.:\n]{0,80}?)?\W{0,4}?\s{0,4}"
    r"(?:\bis\b|\bwas\b|\bequals\b|\bwould be\b|\bwill be\b|:|：|=|→|->))[\s:：*]*|" + STATEMENT,
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?:[.?]|(?<![\d)\]}\\])!)(?=\s|\*|$)|[\n。！？；]")  # 4! is a number
_REFUSAL = re.compile(
    r"\b(?:can(?:no|')t|cannot|unable|do(?:es)? not know|don't know|not sure|not possible|impossible|no "
    r"answer|unknown|insufficient|not enough|sorry|unclear|give up|undetermined"
    r"|dont know|refuse|undefined|not determined|indeterminate|no solution|nothing)\b",
    re.IGNORECASE,
)
_RETRACTED = re.compile(r"\b(?:wait|actually|correction|scratch that|I mean|my mistake|I was wrong)\b", re.I)
_REASON = re.compile(r"(?<=\S)\s+(?:because|since)\b|\s*\((?:see|from|as|by)\b")
_SPAN = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)"
    rf"|(?<![\\$])(?<![^\W{LETTERS}])\$(?!\s*\d[\d,.]*\s)([^$\n]+?)(?<!\\)\$(?!\d)",
    re.DOTALL,
)
# no letter before it, but those of scripts that have no blanks between words
_NUMBER_START = re.compile(
    rf"(?<![^\W{LETTERS}])(?<![.\\])(?:\d|\.\d)|(?<![^\W{LETTERS}])(?<!\.)\\frac(?![A-Za-z])|(?<=>>)\d"
)
_SIGN_BEFORE = re.compile(rf"(?:^|(?<=[\s=(:,{LETTERS}]))(?:[-+]\s?)?(?:US\$|Rs\.?\s?|[$€£¥₹₩]\s?)?(?:[-+]\s?)?$")
# what stands right before the last number of a sentence that it is not the answer of
_PART_OF_MORE = re.compile(
    r"\d[\d.,]*\s*(?:[A-Za-z]+\s+)?(?:or|and|to|through|versus|vs\.?|less|(?:out\s+)?of)\s*$"  # 3 or 4; 18 of 20
    r"|\d\s+$|\.\.\.\s*,?\s*$|\beither\b[^.]{0,60}$|\bnot\b,[^.]{0,40},\s*$"  # 20 18; 1, ..., 18; either 20 or it is 18
    r"|(?:n't|\b(?:not|cannot|never|no longer))(?:\s+\w+){0,3}\s*$|(?:instead of|rather than|other than)\s+the\s+$"
    r"|\b(?:reciprocal|opposite|negation|inverse|negative|predecessor|successor|complement|factorial|logarithm"
    r"|sum|product|difference|multiple|factor|digits?|remainder|average|mean|percent|%)\s+of(?:\s+the)?\s*$"
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


def with_opened_thought(text: str, prompt: str) -> str:
    """The completion with the <think> that its prompt ended with, as the templates of R1's distilled models do: what it
    begins with is a thought. Only the end of the prompt counts; what it says of tags before is instruction.
    """
    return f"<think>{text}" if prompt.rstrip().endswith("<think>") else text


def has_think_answer_format(text: str) -> bool:
    """Whether the whole text is one <think>..</think> followed by one <answer>..</answer> with something in it, white
    space aside.
    """
    match = _FORMAT.fullmatch(text) if all(text.count(tag) == 1 for tag in _TAGS) else None
    return match is not None and re.search(r"\w", match.group(2).replace("\\boxed", "")) is not None


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


def final_answer(text: str, is_cut: bool = False) -> Answer | None:
    """The answer of a completion, or None if it gives none.

    Args: is_cut: the completion was ended by its length: a number at its very end may lack digits.
    """
    part = answering_part(text)
    if part is None or not part.strip():
        return None
    is_cut = is_cut and not part[-1].isspace()  # a blank behind a number: it has all its digits
    if any(name in part for name in BOXES):
        behind = text_behind_boxes(part)
        if "####" not in behind:
            if _is_retracted(behind):
                return _ending(behind, is_cut)
            boxed = last_box(part)
            return Answer(boxed, True) if boxed is not None and boxed.strip() else None
    if "####" in part:
        line, _, behind = part.rpartition("####")[2].strip().partition("\n")
        if _is_retracted(behind):
            return _ending(behind, is_cut)
        return Answer(line, False) if line and not (is_cut and part.endswith(line)) else None
    if not is_cut and (aligned := last_line(part)):
        return Answer(aligned, True)
    answer = _stated(part, is_cut)
    return answer and Answer(without_aside(answer.text), answer.is_exact)


def _is_retracted(following: str) -> bool:
    """Whether what follows an answer takes it back for another number."""
    return _RETRACTED.search(following) is not None and any(character.isdigit() for character in following)


def _stated(part: str, is_cut: bool) -> Answer | None:
    """The last "the answer is ...", or what the text ends with."""
    start, statement = 0, None
    for statement in _STATEMENT.finditer(part):
        start = statement.end()
    rest = part[start:].strip()
    if statement is not None:
        end = _SENTENCE_END.search(rest)
        sentence = rest[: end.start()] if end else rest
        phrase = _REASON.split(sentence, maxsplit=1)[0].strip("* ")
        phrase = phrase if has_balanced_braces(phrase) else sentence
        following = rest[end.end() :] if end else ""
        if _is_retracted(following):
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
    if following and following.group() in "?？":
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
        sign = _SIGN_BEFORE.search(text, max(0, match.start() - 16), match.start())
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
    if is_part_before(before):
        return True
    return _PART_OF_MORE.search(before[-60:]) is not None or DENIED_BEHIND.match(behind[:80]) is not None


def _end_of_digits(text: str, start: int) -> int:
    end = start
    while end < len(text) and (text[end].isdigit() or text[end] in ".,"):
        end += 1
    return end
