"""A second verifier for GSM8K: whether a completion states an answer at its end, right or not (docs/smollm2.md)."""

import re
from collections.abc import Sequence

_STATED = re.compile(r"The answer is \$?-?[\d,.]*\d\.?\s*$")


def states_answer(completions: Sequence[str], golds: Sequence[str]) -> list[float]:
    return [float(_STATED.search(text) is not None) for text in completions]
