r"""Texts made to hurt a verifier: what it takes for them, and whether it pays for any.

    python tests/rewards/hostile_texts.py [--texts 20000] [--seed 0]

Fragments of tags, boxes, LaTeX, digits, brackets, words and bytes, repeated and nested by chance, against golds that
none of them contains.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from mindrlhf_lite.rewards.judge_settings import JUDGE_REWARD
from mindrlhf_lite.rewards.pool import Verdict, VerifierPool
from mindrlhf_lite.rewards.verifiers import BUILT_IN
from mindrlhf_lite.types import CompletionView

GOLDS = ("7351", "73.51", "\\frac{73}{51}", "x^{7}+613x-1", "[73,51)", "Zoey is a knave. Alice is a knight.")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<|im_end|>", "#### ", "The answer is ", "Therefore, ")
_LATEX = ("\\boxed{", "\\frac{", "\\sqrt{", "\\text{", "\\begin{pmatrix}", "\\left(", "\\overline{", "x^{", "9^{", "_{")
_SIGNS = (
    "}",
    "{",
    "(",
    ")",
    "[",
    "]",
    "$",
    "$$",
    "\\(",
    "\\]",
    "^",
    "_",
    "\\",
    "/",
    "!",
    "-",
    "\u2212",
    "=",
    "%",
    ",",
    ".",
)
_WORDS = (
    "9",
    "0",
    "1e9",
    "999999999",
    " or ",
    " and ",
    "\\pi",
    "\\infty",
    "i",
    "nan",
    "inf",
    "mod",
    "\\cdot",
    "knight",
)
_BYTES = ("\x00", "\u202e", "\ufffd", "\ud7ff", "\U0001f600", "\n", "\t", "\u2009", "\uff11", "\u00bd", "\u0661")
_FRAGMENTS = (_TAGS, _LATEX, _SIGNS, _WORDS, _BYTES)


def hostile_texts(count: int, seed: int) -> list[str]:
    """Of 1 to some 20,000 characters each."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 12)):
            fragment = "".join(rng.choice(rng.choice(_FRAGMENTS)) for _ in range(rng.randint(1, 4)))
            parts.append(fragment * min(int(rng.paretovariate(0.7)), 20_000 // (12 * len(fragment)) + 1))
        found.append("".join(parts))
    return found


def judged(texts: list[str], seed: int, timeout_s: float) -> dict[str, list[tuple[str, str, Verdict]]]:
    """(text, gold, verdict) of every text by every built-in verifier that reads texts itself."""
    rng, names = random.Random(seed), NAMES
    pairs = [(CompletionView(text), rng.choice(GOLDS)) for text in texts]
    found: dict[str, list[tuple[str, str, Verdict]]] = {name: [] for name in names}

    def take(number: int, verdict: Verdict) -> None:
        index, place = divmod(number, len(pairs))
        found[names[index]].append((pairs[place][0].text, pairs[place][1], verdict))

    pool = VerifierPool(names, timeout_s)
    try:
        pool.score(pairs, take)
    finally:
        pool.close()
    return found


# a judge asks a server, which tests/rewards/test_judge.py has
NAMES = [name for name in BUILT_IN if name != JUDGE_REWARD]
# scores of a wrong answer, where an answer that cannot be read has a lower one
WRONG = {"acc": -0.5, "environment_reward": 0.0}  # no environment, nothing paid


def is_paid(name: str, verdict: Verdict) -> bool:
    """More than a wrong answer; a verifier of form alone may pay for a form."""
    wrong = WRONG.get(name, BUILT_IN[name].minimum)
    return BUILT_IN[name].judges_answer and verdict.score is not None and verdict.score.value > wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000, help="for every verifier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds a score")
    args = parser.parse_args()
    started, num_paid = time.monotonic(), 0
    for name, rows in judged(hostile_texts(args.texts, args.seed), args.seed, args.timeout).items():
        outcomes = Counter((v.failure or v.score.outcome).value if v.score or v.failure else "none" for *_, v in rows)
        paid = [(text, gold) for text, gold, verdict in rows if is_paid(name, verdict)]
        failed = [(text[:200], gold, verdict.problem) for text, gold, verdict in rows if verdict.failure]
        num_paid += len(paid)
        print(f"{name}: {dict(outcomes)}, paid {len(paid)}")
        for case in [(text[:200], gold) for text, gold in paid[:5]] + failed[:5]:
            print("   ", *map(repr, case))
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(1 if num_paid else 0)


if __name__ == "__main__":
    main()
