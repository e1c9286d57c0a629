"""What the rater of this recipe wants: answers of about so many tokens. A verifier of main.py and of the tools, by name
"examples/rlhf_recipe/rater.py:near_length".
"""

from mindrlhf_lite.rewards import verifier
from mindrlhf_lite.types import CompletionView

WANTED = 28  # tokens; most of the answers that pairs are made of have fewer


@verifier(judges_answer=False)
def near_length(completion: CompletionView, gold: str) -> float:
    """1 at the wanted length, 0 at none and from twice as many on."""
    return max(0.0, 1.0 - abs(completion.num_tokens - WANTED) / WANTED)
