#!/usr/bin/env python3
"""Says where two dumps of a run (msprobe_config.msprobe: true) part first: under other parallel strategies, on another
device, of another version, or against Hugging Face's model.

Compared are whole tensors, however they lay on ranks: key data, weights before a step's first update, activations layer
by layer, logprobs, gradients. What differs by more than --tolerance, relative to the tensor, counts as parted. Exit
code 1 if they part. Against Hugging Face (--hf, needs torch: bash build.sh --test), weights, activations and logprobs
of the dumped completions are computed by transformers in float32.

Examples:
  python tools/compare_dumps.py output/one_rank/dump output/four_ranks/dump
  python tools/compare_dumps.py output/run/dump --hf Qwen2.5-0.5B --step 1
  python tools/compare_dumps.py A/dump B/dump --tolerance 1e-3 --all
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import ADAPTER_HELP, COUNT_OR_NONE, NOT_NEGATIVE_NUMBER, run_tool, tool_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.observe.compare import Difference, compare, entries_of, read_step, steps_of


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("first", metavar="A", help="folder of a dump (OUTPUT/dump)")
    parser.add_argument("second", metavar="B", nargs="?", help="folder of the other")
    parser.add_argument(
        "--hf", metavar="MODEL", help="in B's place: Hugging Face folder of the weights before the step"
    )
    parser.add_argument("--adapter", help=f"with --hf: {ADAPTER_HELP}")
    parser.add_argument(
        "--step", type=COUNT_OR_NONE, help="only this step (default: all that both have; with --hf the first)"
    )
    parser.add_argument(
        "--tolerance", type=NOT_NEGATIVE_NUMBER, default=1e-4, help="relative difference that is none (default: 1e-4)"
    )
    parser.add_argument("--all", action="store_true", help="list every tensor")
    args = parser.parse_args()
    if (args.second is None) == (args.hf is None):
        raise UserError("two dumps are needed, or one and --hf MODEL")
    if args.adapter and not args.hf:
        raise UserError("--adapter goes with --hf")
    found = list(_against_hugging_face(args) if args.hf else _between(args))
    sys.exit(report(found, args.tolerance, args.all))


def _between(args: argparse.Namespace) -> list[Difference]:
    first, second = Path(args.first), Path(args.second)
    both = sorted(set(steps_of(first)) & set(steps_of(second)))
    steps = [step for step in both if args.step in (None, step)]
    if not steps:
        raise UserError(f"{first} and {second} have no step {args.step or ''} in common")
    return [
        difference
        for step in steps
        for difference in compare(entries_of(read_step(first, step)), entries_of(read_step(second, step)), step)
    ]


def _against_hugging_face(args: argparse.Namespace) -> list[Difference]:
    from mindrlhf_lite.observe.hf_dump import hf_lines

    folder = Path(args.first)
    step = args.step or steps_of(folder)[0]
    lines = read_step(folder, step)
    return list(compare(entries_of(lines), entries_of(hf_lines(args.hf, lines, args.adapter)), step))


def report(found: list[Difference], tolerance: float, lists_all: bool) -> int:
    """Prints what was compared. Returns the exit code."""
    if not found:
        raise UserError("nothing in common to compare: are both dumps of msprobe_config.tensor_dump: true?")
    worst: dict[str, list[Difference]] = defaultdict(list)
    for difference in found:
        worst[difference.key[0]].append(difference)
        if lists_all:
            say(difference)
    for stage, own in worst.items():
        same, most = sum(each.value == 0 for each in own), max(own, key=lambda each: each.value)
        say(f"{stage}: {len(own)} compared, {same} with the same bits; most: {most}")
    parted = next((each for each in found if not each.value <= tolerance), None)
    say(f"they part first at {parted}" if parted else f"they are equal within {tolerance:g}")
    return int(parted is not None)


if __name__ == "__main__":
    run_tool(main, uses_torch=True)
