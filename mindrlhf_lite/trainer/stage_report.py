"""What people and other tools see of a run on rows."""

from __future__ import annotations

from mindrlhf_lite.config.stages import StageConfig
from mindrlhf_lite.observe.console import Console
from mindrlhf_lite.observe.host import peak_rss_gb, rss_gb
from mindrlhf_lite.observe.run_files import read_metrics
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.trainer.run_report import RunReport
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


class StageReport(RunReport):
    """Of a run on rows."""

    config: StageConfig

    def __init__(self, config: StageConfig, mesh: Mesh, first_step: int, last_step: int, started: float):
        monitor = config.monitor_config
        console = StageConsole(mesh.is_main, last_step, first_step, monitor.progress_bar, monitor.print_interval)
        super().__init__(config, mesh, console, first_step, started)
        self.start_rss = rss_gb()

    def evaluation(self, step: int, values: dict[str, float], metrics: StepMetrics | None) -> None:
        """Of a step, whose metrics are then written with it; or before the first one."""
        self.add_evaluation(step, values, metrics)
        accuracy = ""
        # before the first step a policy is its own reference: all pairs are ties
        if "eval/accuracy" in values and (step or values["eval/accuracy"]):
            interval = f"95 % interval {values['eval/low']:.1%} to {values['eval/high']:.1%}"
            accuracy = f", {values['eval/accuracy']:.1%} of the pairs right ({interval})"
        self.console.say(f"held-out loss after step {step}: {values['eval/loss']:.4f}{accuracy}")

    def step(self, metrics: StepMetrics) -> None:
        self.write(metrics)
        self.console.step(metrics)

    def finish(self, step: int, largest_phase_bytes: int) -> None:
        """Of a run that is over after `step`."""
        of_ranks = gather_objects(self.mesh.world, (largest_phase_bytes, peak_rss_gb(), self.start_rss))
        largest, peak, start = (max(values) for values in zip(*of_ranks, strict=True))
        if not self.mesh.is_main:
            return
        evaluations = {
            str(row["step"]): {key: value for key, value in row.items() if key.startswith("eval/")}
            for row in read_metrics(self.output / "metrics.jsonl")
            if "eval/loss" in row
        }
        found = {"program": self.config.program, "evaluations": evaluations}
        memory = {"start_rss_gb": start, "peak_rss_gb": peak, "largest_phase_gb": largest / 2**30}
        self.write_end(step, found, memory, "summary.json, metrics.jsonl, plots, hf")
