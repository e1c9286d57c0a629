#!/usr/bin/env python3
"""Times scoring: completions a second of the built-in verifiers in their pool of processes, and what hangs cost.

Completions are GSM8K-like solutions of about --tokens tokens, half of them right, a tenth with a formula in the box,
which math-verify has to compare. A first, untimed batch loads what verifiers import.

Examples:
  python tools/bench_rewards.py
  python tools/bench_rewards.py --completions 256 --hangs 256 --timeout 10
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import COUNT, COUNT_OR_NONE, POSITIVE_NUMBER, run_tool, tool_parser
from mindrlhf_lite.files.text_file import write_text

VERIFIERS = ("accuracy_reward", "qwen_accuracy_reward", "math_reward", "r1_accuracy_reward", "format_reward")
_HANGS = """import time

def hangs(completion, gold):
    while "hang" in completion.text:
        time.sleep(1)
    return 1.0
"""


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--completions", type=COUNT, default=1024, help="default: 1024")
    parser.add_argument("--tokens", type=COUNT, default=512, help="of a completion, about (default: 512)")
    parser.add_argument("--workers", type=COUNT_OR_NONE, default=0, help="processes; 0: one a core (default: 0)")
    parser.add_argument("--turns", type=COUNT, default=5, help="timed batches of each verifier (default: 5)")
    parser.add_argument(
        "--hangs", type=COUNT_OR_NONE, default=0, help="also: so many completions on which a verifier hangs"
    )
    parser.add_argument("--timeout", type=POSITIVE_NUMBER, default=10.0, help="seconds a score may take (default: 10)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    from mindrlhf_lite.rewards.pool import VerifierPool
    from mindrlhf_lite.types import CompletionView

    rng, pairs = random.Random(0), []
    for number in range(args.completions):
        steps = [f"Then {rng.randint(2, 99)} + {rng.randint(2, 99)} makes so many." for _ in range(args.tokens // 13)]
        gold, answer = str(number), str(number if number % 2 else number + 1)
        if number % 10 == 0:
            gold, answer = f"{number + 2}\\sqrt{{3}}", f"\\frac{{{3 * (number + 2)}}}{{\\sqrt{{3}}}}"
        text = f"<think>{' '.join(steps)}</think><answer>\\boxed{{{answer}}}</answer>"
        pairs.append((CompletionView(text, args.tokens), gold))
    for name in VERIFIERS:
        pool, seconds = VerifierPool([name], args.timeout, args.workers), []
        for _ in range(args.turns + 1):
            start = time.perf_counter()
            pool.score(pairs, lambda number, verdict: None)
            seconds.append(time.perf_counter() - start)
        pool.close()
        timed = sorted(seconds[1:])
        print(
            f"{name:22} {args.completions} completions: {timed[len(timed) // 2]:6.2f} s (first batch "
            f"{seconds[0]:.2f} s)"
        )
    if args.hangs:
        with tempfile.TemporaryDirectory() as folder:
            write_text(Path(folder) / "bench_hangs.py", _HANGS)
            os.environ["PYTHONPATH"] = folder  # of the workers
            sys.path.insert(0, folder)
            pool = VerifierPool(["bench_hangs.hangs"], args.timeout, args.workers)
            mixed = [(CompletionView("hang"), "1")] * args.hangs + [(CompletionView("x"), "1")] * args.hangs
            start = time.perf_counter()
            pool.score(mixed, lambda number, verdict: None)
            pool.close()
        print(f"{args.hangs} hangs of {args.timeout:g} s among {2 * args.hangs}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    run_tool(main)
