#!/usr/bin/env python3
"""A page on this machine that shows runs while they go on: progress, curves, memory, warnings, completions, checkpoints
side by side. It reads the runs' files and writes nothing; Ctrl-C ends it.

Examples:
  python tools/watch.py output/quickstart
  python tools/watch.py output/base output/group_of_16 --names base "16 a group" --port 6007
  python tools/watch.py output/quickstart --once
  ssh -L 6006:127.0.0.1:6006 HOST      # on your own machine: then open http://127.0.0.1:6006/ there
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import run_tool, tool_parser, whole_number
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="OUTPUT", help="output folders of runs, going on or over")
    parser.add_argument("--names", nargs="+", help="names of the runs (default: the folders')")
    parser.add_argument("--once", action="store_true", help="print how the runs stand and end, without a page")
    parser.add_argument("--port", type=whole_number(0, 65535), default=6006, help="port on 127.0.0.1; 0: a free one")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    from mindrlhf_lite.observe.runs import names_of
    from mindrlhf_lite.watch.port import ADDRESS, listen_on, missing_library, why
    from mindrlhf_lite.watch.run import WatchedRun, lines_of

    names = args.names or names_of(args.runs)
    if len(names) != len(args.runs):
        raise UserError(f"--names: {len(names)} names for {len(args.runs)} runs")
    for path in args.runs:
        if not Path(path).is_dir():
            raise UserError(f"{path}: no such folder; give the output folder of a run")
    runs = [WatchedRun(name, Path(path)) for path, name in zip(args.runs, names, strict=True)]
    if args.once:
        say(*(line for run in runs for line in lines_of(run)))
        return
    if lack := missing_library():
        raise UserError(lack)
    from mindrlhf_lite.watch.server import serve
    from mindrlhf_lite.watch.views import Views

    try:
        listener = listen_on(args.port)
    except OSError as error:
        raise UserError(f"--port={args.port}: {why(error)}; give another, or 0 for a free one") from None
    say(f"http://{ADDRESS}:{listener.getsockname()[1]}/ (Ctrl-C ends it)")
    serve(Views(runs), listener)


if __name__ == "__main__":
    run_tool(main)
