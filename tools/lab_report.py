#!/usr/bin/env python3
"""One HTML page that compares runs: curves side by side, settings that differ, completions worth reading.

OUTPUT/report.html is self-contained and opens without a network; every curve is also a PNG beside it. Runs that are
still going can be given.

Examples:
  python tools/lab_report.py output/quickstart
  python tools/lab_report.py output/base output/no_format_reward output/group_of_16 \\
      --names base "no format reward" "16 a group" --output lab
  python tools/lab_report.py output/grpo_0 output/grpo_1 output/rloo_0 output/rloo_1 --names grpo grpo rloo rloo
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import run_tool, tool_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.job.lock import hold_output


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folders of runs")
    parser.add_argument(
        "--names", nargs="+", help="names of the runs (default: the folders'); runs of one name are seeds"
    )
    parser.add_argument("--output", default="lab_report", help="folder for the page and the PNGs (default: lab_report)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    from mindrlhf_lite.observe.lab_report import write_report
    from mindrlhf_lite.observe.runs import names_of, read_run

    hold_output(args.output)
    names = args.names or names_of(args.runs)
    if len(names) != len(args.runs):
        raise UserError(f"--names: {len(names)} names for {len(args.runs)} runs")
    say(write_report([read_run(path, name) for path, name in zip(args.runs, names, strict=True)], Path(args.output)))


if __name__ == "__main__":
    run_tool(main)
