"""What every kind of run leaves for people and other tools: metrics, what trackers are sent, plots, summary.json. Only
rank 0 writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.observe.console import Console
from mindrlhf_lite.observe.host import git_commit, versions
from mindrlhf_lite.observe.plots import write_plots
from mindrlhf_lite.observe.run_files import START_FILE, read_metrics
from mindrlhf_lite.observe.writers import MetricsWriter, write_atomically
from mindrlhf_lite.parallel.mesh import Mesh
from mindrlhf_lite.roles.build import kernels_of_run
from mindrlhf_lite.tracking.trackers import NAMES as TRACKERS
from mindrlhf_lite.tracking.trackers import Trackers
from mindrlhf_lite.types import StepMetrics
from mindrlhf_lite.watch.of_run import RunPage


class RunReport:
    """Args: first_step: of this process; rows of a resumed run before it are kept; started: `time.perf_counter()`."""

    def __init__(self, config: Config, mesh: Mesh, console: Console, first_step: int, started: float):
        rl = config.rl_config
        self.config, self.mesh, self.output, self.started = config, mesh, Path(rl.output_dir), started
        self.console = console
        has_tensorboard = rl.tensorboard or "tensorboard" in rl.trackers
        tensorboard = Path(rl.tensorboard_dir or self.output / "tensorboard") if has_tensorboard else None
        self._writer = (
            MetricsWriter(self.output, tensorboard, first_step - 1, rl.tensorboard_queue_size) if mesh.is_main else None
        )
        if mesh.is_main:
            self._write_start(first_step)
        names = [name for name in rl.trackers if name in TRACKERS and mesh.is_main]
        self._trackers = Trackers(names, rl.tracker_python, self.output, asdict(config))
        self._page = RunPage(rl.watch_port if mesh.is_main else 0, self.output, Path(config.completions_dir))

    def _write_start(self, first_step: int) -> None:
        """What a reader cannot tell from the metrics of a run that goes on."""
        start = {
            "first_step": first_step,
            "last_step": self.console.last_step,
            "world_size": self.mesh.world_size,
            "config": asdict(self.config),
        }
        write_atomically(self.output / START_FILE, json.dumps(start, indent=1) + "\n")

    def write(self, metrics: StepMetrics) -> None:
        if self._writer is not None:
            self._writer.write(metrics)
            self._trackers.metrics(metrics.step, metrics.values)

    def add_evaluation(self, step: int, values: dict[str, float], metrics: StepMetrics | None) -> None:
        """Of a step, whose metrics are then written with it; or before the first one."""
        if metrics is not None:
            metrics.values.update(values)
        elif step == 0:
            self.write(StepMetrics(0, values))

    def stopped(self, step: int, why: str) -> None:
        """The run ends here for now."""
        self.console.close()
        self._trackers.close()
        self._page.close()
        if self._writer is not None:
            self._writer.close()
            hint = ResumeHint.of(str(self.output), self.config.checkpoint_dir).text()
            print(f"{why} after step {step}; {hint}", flush=True)

    def write_end(self, step: int, found: Mapping[str, Any], memory: Mapping[str, float], files: str) -> None:
        """On rank 0: plots and summary of a run that is over after `step`. Args: found: what the summary begins with;
        memory: GiB, of the fullest rank; files: what the run has left, in words.
        """
        assert self._writer is not None
        self._writer.close()
        if self.config.monitor_config.plots:
            write_plots(read_metrics(self.output / "metrics.jsonl"), self.output / "plots")
        summary = {
            **found,
            "steps": step,
            "seconds": time.perf_counter() - self.started,
            "seed": self.config.rl_config.seed,
            "world_size": self.mesh.world_size,
            "memory": dict(memory),
            "kernels": kernels_of_run(self.config),
            "versions": versions(),
            "git_commit": git_commit(),
            "config": asdict(self.config),
        }
        write_atomically(self.output / "summary.json", json.dumps(summary, indent=1) + "\n")
        self._trackers.summary({key: value for key, value in summary.items() if key != "config"})
        self._trackers.close()
        self._page.close()
        print(f"done: {self.output} ({files})", flush=True)
