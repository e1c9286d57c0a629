"""A second verifier for GSM8K: whether a completion comes to an end and states an answer, right or not
(docs/smollm2.md).
"""

import re

from mindrlhf_lite.rewards import verifier
from mindrlhf_lite.types import CompletionView

_STATED = re.compile(r"The answer is \$?-?[\d,.]*\d\.?\s*$")


@verifier(minimum=0.0, maximum=1.0, judges_answer=False)
def states_answer(completion: CompletionView, gold: str) -> float:
    return float(completion.finish_reason == "stop" and _STATED.search(completion.text) is not None)
