#!/usr/bin/env python3
"""Runs some layouts of one configuration on two ranks of this host, and compares their seconds with the estimate.

The first twelve of a list that the model and the settings admit. Each is a real run of a few steps; the first two,
which compile, do not count, nor do verifiers. Prints measured and estimated seconds a step, and the rank correlation of
the two (Spearman's). On a quiet machine, one thread a rank. What has run in the output folder is not run again.

Examples:
  OMP_NUM_THREADS=1 python tools/bench_layouts.py --config examples/quickstart/grpo_config.yaml --device_table cpu.yaml
  ... --output output/layouts --steps 6 --rl_config.dataset_file=train.mindrecord --actor_config.load=MODEL
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import COUNT, run_tool, tool_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.estimate.devices import CPU, Device, read_device
from mindrlhf_lite.estimate.ranks import rank_correlation
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.launch.command_line import parse_command_line

_MAIN = Path(__file__).resolve().parents[1] / "examples/qwen_grpo/main.py"
_RANKS = 2
_FEW = 3  # layouts, of which an order says nothing
_MOST = 12
_ALL_RUNS: dict[str, object] = {
    "rl_config.eval_interval": 0,
    "rl_config.save_ckpt_interval": 0,
    "rl_config.tensorboard": "false",
    "monitor_config.plots": "false",
    "monitor_config.progress_bar": "false",
}


def _layout(actor: str, rollout: str, more: dict[str, object], reference: str = "dp") -> dict[str, object]:
    names = {"dp": "data_parallel", "tp": "model_parallel", "pp": "pipeline_stage", "cp": "context_parallel"}
    settings: dict[str, object] = {}
    for section, kind in (("actor_config", actor), ("generate_config", rollout), ("ref_config", reference)):
        for short, name in names.items():
            settings[f"{section}.parallel_config.{name}"] = _RANKS if short == kind else 1
    return settings | more


_MICRO, _AGAIN = "actor_config.parallel_config.micro_batch_num", "actor_config.recompute_config.recompute"
_SLOTS, _SCORED = "generate_config.max_num_seqs", "ref_config.ref_model_batch_size"
LAYOUTS: dict[str, dict[str, object]] = {
    f"actor {actor}2, rollout {rollout}2": _layout(actor, rollout, {_MICRO: 2 if actor == "pp" else 1})
    for actor in ("dp", "tp", "pp", "cp")
    for rollout in ("dp", "tp")
} | {
    "actor dp2, rollout dp2, recompute": _layout("dp", "dp", {_MICRO: 1, _AGAIN: True}),
    "actor dp2, rollout dp2, 8 micro-batches": _layout("dp", "dp", {_MICRO: 8}),
    "actor dp2, rollout dp2, 8 slots": _layout("dp", "dp", {_MICRO: 1, _SLOTS: 8}),
    "actor tp2, rollout tp2, reference tp2, 4 micro-batches": _layout("tp", "tp", {_MICRO: 4}, "tp"),
    # for models whose heads two tensor ranks cannot share
    "actor dp2, rollout dp2, 16 micro-batches": _layout("dp", "dp", {_MICRO: 16}),
    "actor pp2, rollout dp2, reference pp2, 8 micro-batches": _layout("pp", "dp", {_MICRO: 8}, "pp"),
    "actor cp2, rollout dp2, reference cp2, recompute": _layout("cp", "dp", {_MICRO: 1, _AGAIN: True}, "cp"),
    "actor cp2, rollout dp2, 8 slots": _layout("cp", "dp", {_MICRO: 1, _SLOTS: 8}),
    "actor dp2, rollout dp2, reference of 1 at a time": _layout("dp", "dp", {_MICRO: 1, _SCORED: 1}),
    "actor pp2, rollout dp2, 16 micro-batches, recompute": _layout("pp", "dp", {_MICRO: 16, _AGAIN: True}),
}


def _admitted(config: str, rest: list[str]) -> dict[str, dict[str, object]]:
    """The first of LAYOUTS that this model and these settings admit. Raises UserError where none does."""
    found, said = {}, None
    for name, layout in LAYOUTS.items():
        words = _words(layout | _ALL_RUNS)
        try:
            parse_command_line(["--config", config, "--dry_run", "--devices", str(_RANKS), *rest, *words])
        except UserError as error:
            said = said or error
            continue
        found[name] = layout
        if len(found) == _MOST:
            break
    if said and not found:
        raise said
    return found


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("--config", required=True, help="YAML file of the runs")
    parser.add_argument(
        "--device_table", metavar="FILE", help="figures by tools/calibrate.py (default: those of a CPU)"
    )
    parser.add_argument(
        "--only", type=COUNT, nargs="+", default=[], metavar="N", help="layouts, by number (default: all)"
    )
    parser.add_argument("--output", default="output/layouts", help="folder of the runs (default: output/layouts)")
    parser.add_argument("--steps", type=COUNT, default=6, help="of a run (default: 6)")
    args, rest = parser.parse_known_args()
    device = read_device(args.device_table) if args.device_table else CPU
    rows: dict[str, tuple[float, float]] = {}
    admitted = _admitted(args.config, rest)
    numbers = {name: number for number, name in enumerate(LAYOUTS, start=1) if name in admitted}
    if unknown := set(args.only) - set(numbers.values()):
        raise UserError(f"--only {' '.join(map(str, unknown))}: there are {', '.join(map(str, numbers.values()))}")
    for name, number in numbers.items():
        layout = admitted[name]
        if args.only and number not in args.only:
            continue
        folder = Path(args.output, f"{number:02}")
        if not (folder / "summary.json").exists():
            _run(args, folder, layout, rest)
        rows[name] = (_measured(folder), _estimated(folder, device))
        say(f"{number:2}. {name:<54} measured {rows[name][0]:7.2f} s   estimated {rows[name][1]:7.2f} s")
    if len(rows) < _FEW:
        return
    measured, estimated = zip(*rows.values(), strict=True)
    best = min(rows, key=lambda name: rows[name][1])
    say(
        f"rank correlation {rank_correlation(measured, estimated):.2f}; the first by estimate takes "
        f"{rows[best][0] / min(measured):.2f} of the fastest's time"
    )


def _run(args: argparse.Namespace, folder: Path, layout: dict[str, object], rest: list[str]) -> None:
    settings = {
        **layout,
        **_ALL_RUNS,
        "rl_config.output_dir": folder,
        "rl_config.max_steps": args.steps,
    }
    command = ["msrun", f"--worker_num={_RANKS}", f"--local_worker_num={_RANKS}", "--join=True"]
    command += [f"--log_dir={folder}_log", str(_MAIN), "--config", args.config, *rest]
    command += _words(settings)  # last, so that the layout's own count
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise UserError(f"a run failed; see {folder}_log")


def _words(settings: dict[str, object]) -> list[str]:
    return [f"--{key}={value}" for key, value in settings.items()]


def _measured(folder: Path) -> float:
    from mindrlhf_lite.acceptance.calibration import timed_rows

    return statistics.median(row["time_s/step"] - row["time_s/reward"] for row in timed_rows(folder))


def _estimated(folder: Path, device: Device) -> float:
    from mindrlhf_lite.acceptance.calibration import phases_of_run

    return sum(estimated for _, estimated in phases_of_run(folder, device).values())


if __name__ == "__main__":
    run_tool(main)
