#!/usr/bin/env python3
"""Measures what this host's CPU does a second, for estimates of a step and the search for layouts, in half a minute.

Writes a table of a device for `main.py --dry_run --device_table FILE`. Under msrun links between ranks are measured,
too; on a quiet machine, with as many ranks as runs will have. --runs OUTPUT ... compares finished runs with their
estimates, and writes by phase how they differ: what products and operators reach within a run is in these factors.

Examples:
  msrun --worker_num=2 --local_worker_num=2 --join=True tools/calibrate.py --output cpu.yaml
  python tools/calibrate.py --from cpu.yaml --runs output/run_a output/run_b --output cpu_measured.yaml
  python tools/calibrate.py --from 910B --runs output/run_on_ascend --output 910b_measured.yaml
  python examples/qwen_grpo/main.py --config grpo_config.yaml --dry_run --devices 2 --device_table cpu_measured.yaml \\
      --search
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import tool_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.estimate.devices import DEVICES, read_device, write_device
from mindrlhf_lite.files.text_file import read_text, say
from mindrlhf_lite.launch.joined_tool import run_joined_tool


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("--output", required=True, metavar="FILE", help="table to write")
    known = ", ".join(DEVICES)
    parser.add_argument("--from", dest="table", metavar="FILE", help=f"a table, or {known}, instead of measuring")
    parser.add_argument("--runs", nargs="+", default=[], metavar="OUTPUT", help="finished runs to compare with")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --output")
    args = parser.parse_args()
    if Path(args.output).exists() and not args.overwrite:
        raise UserError(f"--output {args.output}: it is there already; --overwrite replaces it")
    if args.table and args.table not in DEVICES and not Path(args.table).is_file():
        raise UserError(f"--from {args.table}: no such file; of published figures there are {known}")
    from mindrlhf_lite.acceptance.calibration import measure, with_factors

    is_main = True
    if args.table:
        device = DEVICES.get(args.table) or read_device(args.table)
    else:
        from mindrlhf_lite.parallel.mesh import Mesh

        mesh = Mesh()
        device, is_main = measure(mesh), mesh.is_main
    if args.runs:
        device = with_factors(device, [Path(each) for each in args.runs])
    if is_main:
        write_device(args.output, device)
        say(read_text(Path(args.output)).rstrip(), f"wrote {args.output}")


if __name__ == "__main__":
    run_joined_tool(main)
