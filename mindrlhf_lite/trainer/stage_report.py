"""What people and other tools see of a run on rows: console, metrics.jsonl, plots, summary.json. Only rank 0 writes."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.config.stages import StageConfig
from mindrlhf_lite.observe.console import Console
from mindrlhf_lite.observe.host import git_commit, peak_rss_gb, rss_gb, versions
from mindrlhf_lite.observe.plots import write_plots
from mindrlhf_lite.observe.run_files import read_metrics
from mindrlhf_lite.observe.writers import MetricsWriter, write_atomically
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.roles.build import kernels_of_run
from mindrlhf_lite.tracking.trackers import NAMES as TRACKERS
from mindrlhf_lite.tracking.trackers import Trackers
from mindrlhf_lite.types import StepMetrics


class StageConsole(Console):
    """One line a step: its loss, and what its pairs have."""

    def line(self, v: dict[str, float]) -> str:
        pairs = (
            f" | pairs right {v['preference/accuracy']:.0%}, margin {v['preference/margin']:.3f}"
            if "preference/accuracy" in v
            else ""
        )
        return f"loss {v['loss/total']:8.5f}{pairs} | grad {v['policy/grad_norm']:.3f} | lr {v['policy/lr']:.2e}"

    def note(self, v: dict[str, float]) -> str:
        return f"loss {v['loss/total']:.3f}, {v['speed/trained_tokens_per_s']:.0f} tok/s"


class StageReport:
    """Args: first_step: of this process; rows of a resumed run before it are kept."""

    def __init__(self, config: StageConfig, mesh: Mesh, first_step: int, last_step: int, started: float):
        monitor, rl = config.monitor_config, config.rl_config
        self.config, self.mesh, self.output, self.started = config, mesh, Path(rl.output_dir), started
        self.start_rss = rss_gb()
        self.console = StageConsole(mesh.is_main, last_step, first_step, monitor.progress_bar, monitor.print_interval)
        has_tensorboard = rl.tensorboard or "tensorboard" in rl.trackers
        tensorboard = Path(rl.tensorboard_dir or self.output / "tensorboard") if has_tensorboard else None
        self._writer = (
            MetricsWriter(self.output, tensorboard, first_step - 1, rl.tensorboard_queue_size) if mesh.is_main else None
        )

        names = [name for name in rl.trackers if name in TRACKERS and mesh.is_main]
        self._trackers = Trackers(names, rl.tracker_python, self.output, asdict(config))

    def evaluation(self, step: int, values: dict[str, float], metrics: StepMetrics | None) -> None:
        """Of a step, whose metrics are then written with it; or before the first one."""
        if metrics is not None:
            metrics.values.update(values)
        elif step == 0 and self._writer is not None:
            self._writer.write(StepMetrics(0, values))
            self._trackers.metrics(0, values)
        accuracy = ""
        # before the first step a policy is its own reference: all pairs are ties
        if "eval/accuracy" in values and (step or values["eval/accuracy"]):
            interval = f"95 % interval {values['eval/low']:.1%} to {values['eval/high']:.1%}"
            accuracy = f", {values['eval/accuracy']:.1%} of the pairs right ({interval})"
        self.console.say(f"held-out loss after step {step}: {values['eval/loss']:.4f}{accuracy}")

    def step(self, metrics: StepMetrics) -> None:
        if self._writer is not None:
            self._writer.write(metrics)
            self._trackers.metrics(metrics.step, metrics.values)
        self.console.step(metrics)

    def stopped(self, step: int, why: str) -> None:
        """The run ends here for now."""
        self.console.close()
        self._trackers.close()
        if self._writer is not None:
            self._writer.close()
            hint = ResumeHint.of(str(self.output), self.config.checkpoint_dir).text()
            print(f"{why} after step {step}; {hint}", flush=True)

    def finish(self, step: int, largest_phase_bytes: int) -> None:
        """Plots and summary of a run that is over after `step`."""
        of_ranks = gather_objects(self.mesh.world, (largest_phase_bytes, peak_rss_gb(), self.start_rss))
        largest, peak, start = (max(values) for values in zip(*of_ranks, strict=True))
        if self._writer is None:
            return
        self._writer.close()
        rows = read_metrics(self.output / "metrics.jsonl")
        if self.config.monitor_config.plots:
            write_plots(rows, self.output / "plots")
        summary = {
            "program": self.config.program,
            "evaluations": {
                str(row["step"]): {key: value for key, value in row.items() if key.startswith("eval/")}
                for row in rows
                if "eval/loss" in row
            },
            "steps": step,
            "seconds": time.perf_counter() - self.started,
            "seed": self.config.rl_config.seed,
            "world_size": self.mesh.world_size,
            # GiB, of the fullest rank
            "memory": {"start_rss_gb": start, "peak_rss_gb": peak, "largest_phase_gb": largest / 2**30},
            "kernels": kernels_of_run(self.config),
            "versions": versions(),
            "git_commit": git_commit(),
            "config": asdict(self.config),
        }
        write_atomically(self.output / "summary.json", json.dumps(summary, indent=1) + "\n")
        self._trackers.summary({key: value for key, value in summary.items() if key != "config"})
        self._trackers.close()
        print(f"done: {self.output} (summary.json, metrics.jsonl, plots, hf)", flush=True)
