#!/usr/bin/env python3
"""PNG plots (reward, loss, KL, length, held-out accuracy) of a run's metrics.jsonl; also of a run that is still going.

Example:
  python tools/plot_run.py output/quickstart
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import run_tool, tool_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("run", help="output folder of a run")
    args = parser.parse_args()
    from mindrlhf_lite.observe.plots import write_plots
    from mindrlhf_lite.observe.run_files import read_metrics

    rows = read_metrics(Path(args.run) / "metrics.jsonl")
    if not rows:
        raise UserError(f"{args.run}: no metrics.jsonl with at least one step there")
    for path in write_plots(rows, Path(args.run) / "plots"):
        say(path)


if __name__ == "__main__":
    run_tool(main)
