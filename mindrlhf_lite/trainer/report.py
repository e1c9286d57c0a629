"""What people and other tools see of a run: console, metrics.jsonl, completions, plots, summary.json. Only rank 0
writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.evaluation.accuracy import Evaluation
from mindrlhf_lite.learner.statistics import UpdateCounts, update_metrics
from mindrlhf_lite.observe.console import Console
from mindrlhf_lite.observe.health import History
from mindrlhf_lite.observe.host import peak_rss_gb, rss_gb
from mindrlhf_lite.observe.writers import completion_rows, write_completions
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.reshard.executor import Moved
from mindrlhf_lite.swap.residency import Traffic
from mindrlhf_lite.trainer.best import Best
from mindrlhf_lite.trainer.rollout_metrics import rollout_metrics
from mindrlhf_lite.trainer.run_report import RunReport
from mindrlhf_lite.types import ScoredGroup, StepMetrics, TrainSequence

# what a rank tells of a step: updates, memory now and at most in GiB, the reshard, bytes swapped
_OF_RANK = tuple[UpdateCounts, float, float, Moved, int]


class Report(RunReport):
    """Of a GRPO run. Args: decode: the tokenizer's."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        first_step: int,
        last_step: int,
        started: float,
        start_rss: float,
        decode: Callable[[Sequence[int]], str],
    ):
        monitor = config.monitor_config
        console = Console(mesh.is_main, last_step, first_step, monitor.progress_bar, monitor.print_interval)
        super().__init__(config, mesh, console, first_step, started)
        self.start_rss, self._completions, self._decode = start_rss, Path(config.completions_dir), decode

    def evaluation(self, step: int, result: Evaluation, metrics: StepMetrics | None) -> None:
        """Of a step, whose metrics are then written with it; or before the first one."""
        values = {"eval/accuracy": result.accuracy, "eval/low": result.low, "eval/high": result.high}
        self.add_evaluation(step, values, metrics)
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
            rows = completion_rows(scored, sequences, self._decode)
            write_completions(self._completions, f"step_{metrics.step:06d}", rows)
            self._trackers.samples(metrics.step, rows)
        self.write(metrics)
        if overflows := metrics.values.get("policy/overflows"):
            self.console.say(
                f"step {metrics.step}: gradients overflowed float16 in {overflows:.0f} update(s), which were left out; "
                f"the loss scale is {metrics.values['policy/loss_scale']:g} now"
            )
        self.console.step(metrics)
        if rl.performance_stats:
            self.console.performance(metrics)

    def finish(
        self,
        step: int,
        evaluations: dict[str, Evaluation],
        best: Best | None,
        largest_phase_bytes: int,
        health: History,
    ) -> None:
        """Of a run that is over after `step`."""
        largest, peak = (
            max(values)
            for values in zip(*gather_objects(self.mesh.world, (largest_phase_bytes, peak_rss_gb())), strict=True)
        )
        if not self.mesh.is_main:
            return
        found = {
            "accuracy": {name: result.as_dict() for name, result in evaluations.items()},
            **({"best": asdict(best)} if best else {}),
            "health": [asdict(each) for each in health.found],
        }
        memory = {"start_rss_gb": self.start_rss, "peak_rss_gb": peak, "largest_phase_gb": largest / 2**30}
        self.write_end(step, found, memory, "summary.json, metrics.jsonl, completions, plots, hf")
