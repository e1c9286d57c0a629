"""The quickstart as a check of a device: how it is started, how long its phases took, and how long they should."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from mindrlhf_lite.config.model_file import read_model_file
from mindrlhf_lite.estimate.devices import DEVICES
from mindrlhf_lite.estimate.step import work_of_step
from mindrlhf_lite.files.text_file import read_text
from mindrlhf_lite.launch.command_line import parse_command_line

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples/quickstart/model"


def quickstart(run: Path, device: str, steps: int, more: Sequence[str]) -> list[str]:
    """The command, in bfloat16 on one device. Args: run: its folder; more: settings."""
    settings = [f"--context.device_target={device}", f"--rl_config.max_steps={steps}"]
    settings += ["--actor_config.compute_dtype=bfloat16", "--monitor_config.plots=false", *more]
    return ["bash", str(ROOT / "examples/quickstart/run_grpo.sh"), "--ranks", "1", "--output", str(run), *settings]


def median_seconds(run: Path) -> dict[str, float]:
    """Of a run's steps, by phase."""
    rows = [json.loads(line) for line in read_text(run / "metrics.jsonl").splitlines()]
    steps = [row for row in rows if "time_s/step" in row]
    names = [name for name in steps[-1] if name.startswith("time_s/")]
    return {name.removeprefix("time_s/"): float(median(row[name] for row in steps)) for name in names}


def estimated_seconds() -> dict[str, float]:
    """As `main.py --dry_run` has them."""
    words = ["--config", str(ROOT / "examples/quickstart/grpo_config.yaml"), "--model_config", str(MODEL), "--dry_run"]
    words += ["--context.device_target=Ascend", "--actor_config.compute_dtype=bfloat16"]
    config = parse_command_line([*words, "--actor_config.load=", "--rl_config.eval_interval=0"]).config
    work = work_of_step(config, read_model_file(str(MODEL)).shape, 1)
    return {name: each.seconds(DEVICES["910B"]) for name, each in work.items()}
