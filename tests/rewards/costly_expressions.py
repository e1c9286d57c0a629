r"""Formulas of chance that would cost much to evaluate, as answers: towers of powers, factorials of factorials,
binomials of large numbers, deep nesting, long sums. None may take long, or much memory.

    python tests/rewards/costly_expressions.py --count 2000

Exit code 1: some took more processor time than --limit seconds, or the process grew by more than --megabytes. Prints
the slowest.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from mindrlhf_lite.rewards.verifiers import BUILT_IN
from mindrlhf_lite.types import CompletionView

_GOLDS = ("18", "\\frac{1}{2}", "2\\sqrt{3}", "x^2+1", "1, 2", "(0, 1)", "x > 3", "\\log 2")
_FRAMES = ("\\boxed{{{}}}", "#### {}", "The answer is ${}$.", "<think></think><answer>{}</answer>", "So ${} = 18$.")
_LEAVES = (
    "9",
    "2",
    "0",
    "-3",
    "x",
    "n",
    "\\pi",
    "e",
    "i",
    "99",
    "10^7",
    "12345",
    "9!",
    "0.001",
    "\\infty",
    "987654321",
    "1.5",
    "2^{64}",
    "10^{10}",
)


def formula(rng: random.Random, depth: int) -> str:
    """A formula of operations that grow fast."""
    if depth <= 0:
        return rng.choice(_LEAVES)
    a, b = formula(rng, depth - 1), formula(rng, rng.randint(0, depth - 1))
    return rng.choice(
        [
            f"({a})!",
            f"({a})!!",
            f"{a}^{{{b}}}",
            f"({a})^{{{b}}}",
            f"\\binom{{{a}}}{{{b}}}",
            f"\\frac{{{a}}}{{{b}}}",
            f"\\log({a})",
            f"\\log_{{{b}}} ({a})",
            f"\\sqrt[{b}]{{{a}}}",
            f"\\sqrt{{{a}}}",
            f"\\sin({a})",
            f"\\tan({a})",
            f"e^{{{a}}}",
            f"({a}+{b})^{{{rng.choice([7, 30, 99, 1000])}}}",
            f"({a})({b})",
            f"{a} \\cdot {b}",
            f"{a}+{b}",
            f"\\sum_{{k=1}}^{{{a}}} {b}",
            f"\\prod_{{k=1}}^{{{a}}} k^{{{b}}}",
            f"\\int_0^{{{a}}} x^{{{b}}} dx",
            f"\\gcd({a}, {b})",
            f"\\lfloor {a} \\rfloor",
            f"|{a}|",
            f"\\lim_{{x \\to {a}}} x^{{{b}}}",
            f"{a} \\bmod {b}",
            f"({a}, {b})",
            f"\\{{{a}, {b}\\}}",
            f"{a} < x < {b}",
            f"x = {a}",
            f"\\left({a}\\right)^{{-{b}}}",
            f"\\begin{{pmatrix}} {a} & {b} \\\\ 1 & 2 \\end{{pmatrix}}",
            f"\\pm {a}",
            f"({a} choose {b})",
            f"\\cos({a})^{{{b}}}",
            f"\\arctan({a})",
            f"{a}%",
            f"\\lceil {a} \\rceil",
        ]
    )


def completions(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(completion, gold)"""
    rng = random.Random(seed)
    return [(rng.choice(_FRAMES).format(formula(rng, rng.randint(1, 5))), rng.choice(_GOLDS)) for _ in range(count)]


def seconds(completion: str, gold: str) -> float:
    """Processor time of a score."""
    start = time.process_time()
    BUILT_IN["qwen_accuracy_reward"].score(CompletionView(completion), gold)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="formulas (default: 500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=2.0, help="seconds of processor time for each (default: 2)")
    parser.add_argument("--megabytes", type=int, default=500, help="that the process may grow by (default: 500)")
    args = parser.parse_args()

    def give_up(*_: object) -> None:
        raise TimeoutError  # only Python code is interrupted; a single huge operation is seen when it ends

    signal.signal(signal.SIGVTALRM, give_up)
    seconds("\\boxed{\\frac{1}{\\sqrt{2}}}", "\\frac{\\sqrt{2}}{2}")  # loads what verifiers import
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = []
    for completion, gold in completions(args.count, args.seed):
        signal.setitimer(signal.ITIMER_VIRTUAL, 5 * args.limit)
        try:
            taken.append((seconds(completion, gold), completion, gold))
        except TimeoutError:
            taken.append((5 * args.limit, completion, gold))
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    slow = [row for row in taken if row[0] > args.limit]
    for row in sorted(taken, reverse=True)[:8]:
        print(f"{row[0]:7.2f} s  {row[1]!r}, gold {row[2]!r}")
    print(
        f"{len(taken)} formulas, {sum(row[0] for row in taken):.0f} s, {len(slow)} took over {args.limit:g} s; "
        f"{grown} MB more"
    )
    sys.exit(bool(slow) or grown > args.megabytes)


if __name__ == "__main__":
    main()
