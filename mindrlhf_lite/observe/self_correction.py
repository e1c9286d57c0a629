"""Completions in which a model seems to correct itself while it thinks: candidates by rule, for a person to read."""

from __future__ import annotations

import re
from dataclasses import dataclass

_THINK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)
_SUM = re.compile(r"(?<![\d+*-])(\d{1,9}(?:[+*-]\d{1,9}){1,4})=(-?\d{1,12})(?!\d)")

# name -> words that announce a change of mind, in English and Chinese
_WORDS = {
    "wait": r"\bwait\b|\bhold on\b|等等|等一下",
    "checks again": r"\b(?:re-?check|double[- ]check|check(?:ing)? (?:this |that |it |my work "
    r")?again)\w*|(?:重新|再)(?:检查|验证|核对)",
    "computes again": r"\blet(?:'s| me| us) (?:redo|reconsider|recompute|recalculate|try again|start "
    r"over)\b|重新(?:计算|考虑|算)|再算",
    "finds a mistake": r"\b(?:that|this)(?:'s| is| was) (?:not right|wrong|incorrect|a mistake)\b|\bI made (?:a|an) "
    r"(?:mistake|error)\b|不对|错了|弄错",
    "takes it back": r"(?:^|[.!?\n]\s*)(?:no,|oops|actually,)",
}
_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _WORDS.items()}
RECOMPUTED = "the same sum, first wrong, then right"
RULES = {**_WORDS, RECOMPUTED: "a sum such as 7+8=14 that appears again with the right result"}


@dataclass(frozen=True)
class SelfCorrection:
    """Example: SelfCorrection("wait", 17, 21)"""

    rule: str
    start: int  # of the sign, in the completion
    stop: int


def _value(expression: str) -> int:
    """Of a sum, difference or product of whole numbers, products first."""
    total = 0
    for sign, term in re.findall(r"([+-]?)([^+-]+)", expression):
        product = 1
        for factor in term.split("*"):
            product *= int(factor)
        total += -product if sign == "-" else product
    return total


def find_self_correction(completion: str) -> SelfCorrection | None:
    """The first sign inside <think> (which may lack its end), with text after it; None where there is none."""
    think = _THINK.search(completion)
    if think is None:
        return None
    found = []
    for name, pattern in _PATTERNS.items():
        match = pattern.search(completion, think.start(1), think.end(1))
        if match and completion[match.end() : think.end(1)].strip():
            found.append(SelfCorrection(name, match.start(), match.end()))
    wrong: set[str] = set()
    for match in _SUM.finditer(completion, think.start(1), think.end(1)):
        is_right = _value(match[1]) == int(match[2])
        if is_right and match[1] in wrong:
            found.append(SelfCorrection(RECOMPUTED, match.start(), match.end()))
            break
        if not is_right:
            wrong.add(match[1])
    return min(found, key=lambda candidate: candidate.start, default=None)
