"""What people and other tools see of a run: console, metrics.jsonl, completions, plots, summary.json. Only rank 0
writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.evaluation.accuracy import Evaluation
from mindrlhf_lite.learner.statistics import UpdateCounts, update_metrics
from mindrlhf_lite.observe.console import Console
from mindrlhf_lite.observe.health import History
from mindrlhf_lite.observe.host import git_commit, peak_rss_gb, rss_gb, versions
from mindrlhf_lite.observe.plots import write_plots
from mindrlhf_lite.observe.run_files import read_metrics
from mindrlhf_lite.observe.writers import MetricsWriter, completion_rows, write_atomically, write_completions
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.reshard.executor import Moved
from mindrlhf_lite.roles.build import kernels_of_run
from mindrlhf_lite.swap.residency import Traffic
from mindrlhf_lite.tracking.trackers import NAMES as TRACKERS
from mindrlhf_lite.tracking.trackers import Trackers
from mindrlhf_lite.trainer.best import Best
from mindrlhf_lite.trainer.rollout_metrics import rollout_metrics
from mindrlhf_lite.types import ScoredGroup, StepMetrics, TrainSequence

# what a rank tells of a step: updates, memory now and at most in GiB, the reshard, bytes swapped
_OF_RANK = tuple[UpdateCounts, float, float, Moved, int]


class Report:
    """One run's console and files.

    Args: first_step: of this process; rows of a resumed run before it are kept.
    """

    def __init__(self, config: Config, mesh: Mesh, first_step: int, last_step: int, started: float, start_rss: float):
        monitor, rl = config.monitor_config, config.rl_config
        self.config, self.mesh, self.output, self.last_step = config, mesh, Path(rl.output_dir), last_step
        self.started, self.start_rss = started, start_rss
        self.console = Console(mesh.is_main, last_step, first_step, monitor.progress_bar, monitor.print_interval)
        has_tensorboard = rl.tensorboard or "tensorboard" in rl.trackers
        tensorboard = Path(rl.tensorboard_dir or self.output / "tensorboard") if has_tensorboard else None
        self._completions = Path(config.completions_dir)
        self._writer = (
            MetricsWriter(self.output, tensorboard, first_step - 1, rl.tensorboard_queue_size) if mesh.is_main else None
        )

        names = [name for name in rl.trackers if name in TRACKERS and mesh.is_main]
        self._trackers = Trackers(names, rl.tracker_python, self.output, asdict(config))

    def evaluation(self, step: int, result: Evaluation, metrics: StepMetrics | None) -> None:
        """Of a step, whose metrics are then written with it; or before the first one."""
        values = {"eval/accuracy": result.accuracy, "eval/low": result.low, "eval/high": result.high}
        if metrics is not None:
            metrics.values.update(values)
        elif step == 0 and self._writer is not None:
            self._writer.write(StepMetrics(0, values))
            self._trackers.metrics(0, values)
        interval = f"95 % interval {result.low:.1%} to {result.high:.1%}"
        self.console.say(
            f"held-out accuracy after step {step}: {result.accuracy:.1%} ({interval}, {result.num_questions} questions)"
        )

    def collect(
        self,
        scored: Sequence[ScoredGroup],
        counts: UpdateCounts,
        moved: Moved,
        seconds: dict[str, float],
        traffic: Traffic,
        bound_bytes: int,
    ) -> dict[str, float]:
        """A step's metrics from all ranks, which all call it.

        Args: seconds, traffic: of `PhaseClock.take`; bound_bytes: least that a reshard can move.
        """
        ranks = gather_objects(self.mesh.world, (counts, rss_gb(), peak_rss_gb(), moved, traffic.num_bytes), _OF_RANK)
        updates, rss, peak, moves, swapped = map(list, zip(*ranks, strict=True))
        tokens = sum(completion.num_written for group in scored for completion in group.group.completions)
        copied = sum(move.copied_bytes for move in moves)
        return {
            **update_metrics(updates, self.config.updates_per_step),
            **rollout_metrics(scored),
            **{f"time_s/{name}": value for name, value in seconds.items()},
            "speed/generated_tokens_per_s": tokens / max(seconds["generate"], 1e-9),
            "speed/trained_tokens_per_s": sum(counts.num_tokens for counts in updates) / max(seconds["update"], 1e-9),
            "reshard/bytes": float(sum(move.received_bytes for move in moves)),
            "reshard/lower_bound_bytes": float(bound_bytes),
            "reshard/copied_bytes": float(copied),
            "reshard/gb_per_s": copied / 1e9 / max(move.seconds for move in moves),
            "swap/bytes": float(sum(swapped)),
            "memory/rss_gb": max(rss),
            "memory/peak_rss_gb": max(peak),
        }

    def step(self, metrics: StepMetrics, scored: Sequence[ScoredGroup], sequences: Sequence[TrainSequence]) -> None:
        """Args: sequences: of all completions, in the order of the groups."""
        rl = self.config.rl_config
        if (
            rl.save_prompt_completions_data
            and metrics.step % rl.save_prompt_completions_interval == 0
            and self.mesh.is_main
        ):
            rows = completion_rows(scored, sequences)
            write_completions(self._completions, f"step_{metrics.step:06d}", rows)
            self._trackers.samples(metrics.step, rows)
        if self._writer is not None:
            self._writer.write(metrics)
            self._trackers.metrics(metrics.step, metrics.values)
        if overflows := metrics.values.get("policy/overflows"):
            self.console.say(
                f"step {metrics.step}: gradients overflowed float16 in {overflows:.0f} update(s), which were left out; "
                f"the loss scale is {metrics.values['policy/loss_scale']:g} now"
            )
        self.console.step(metrics)
        if rl.performance_stats:
            self.console.performance(metrics)

    def stopped(self, step: int, why: str) -> None:
        """The run ends here for now."""
        self.console.close()
        self._trackers.close()
        if self._writer is not None:
            self._writer.close()
            print(
                f"{why} after step {step}; {ResumeHint.of(str(self.output), self.config.checkpoint_dir).text()}",
                flush=True,
            )

    def finish(
        self,
        step: int,
        evaluations: dict[str, Evaluation],
        best: Best | None,
        largest_phase_bytes: int,
        health: History,
    ) -> None:
        """Plots and summary of a run that is over after `step`."""
        largest, peak = (
            max(values)
            for values in zip(*gather_objects(self.mesh.world, (largest_phase_bytes, peak_rss_gb())), strict=True)
        )
        if self._writer is None:
            return
        self._writer.close()
        if self.config.monitor_config.plots:
            write_plots(read_metrics(self.output / "metrics.jsonl"), self.output / "plots")
        summary = {
            "accuracy": {name: result.as_dict() for name, result in evaluations.items()},
            **({"best": asdict(best)} if best else {}),
            "health": [asdict(each) for each in health.found],
            "steps": step,
            "seconds": time.perf_counter() - self.started,
            "seed": self.config.rl_config.seed,
            "world_size": self.mesh.world_size,
            # GiB, of the fullest rank
            "memory": {"start_rss_gb": self.start_rss, "peak_rss_gb": peak, "largest_phase_gb": largest / 2**30},
            "kernels": kernels_of_run(self.config),
            "versions": versions(),
            "git_commit": git_commit(),
            "config": asdict(self.config),
        }
        write_atomically(self.output / "summary.json", json.dumps(summary, indent=1) + "\n")
        self._trackers.summary({key: value for key, value in summary.items() if key != "config"})
        self._trackers.close()
        print(f"done: {self.output} (summary.json, metrics.jsonl, completions, plots, hf)", flush=True)
