"""The loop of a run on rows."""

from __future__ import annotations

import gc
from contextlib import closing
from pathlib import Path

from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.config.stages import StageConfig
from mindrlhf_lite.learner.statistics import merged_statistics
from mindrlhf_lite.observe.host import peak_rss_gb, rss_gb
from mindrlhf_lite.observe.host_monitor import HostMonitor
from mindrlhf_lite.observe.profile import DeviceTrace, StepProfiler
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.trainer.ending import Stops
from mindrlhf_lite.trainer.stage_run import TaskOf, assemble_stage
from mindrlhf_lite.trainer.supervised import SupervisedStep
from mindrlhf_lite.types import StepMetrics


class StageTrainer:
    """One run on this rank; every rank makes one."""

    def __init__(self, config: StageConfig, mesh: Mesh, task_of: TaskOf):
        self.run = assemble_stage(config, mesh, task_of)
        rl, profiler = config.rl_config, config.profiler_config
        self.profiler = StepProfiler(profiler, Path(rl.output_dir) / "profile", mesh.rank)
        traces = Path(profiler.profile_save_path or f"{rl.output_dir}/profiler")
        self.trace = DeviceTrace(profiler, traces, mesh.rank)
        self.monitor = HostMonitor(config.monitor_config, ResumeHint.of(rl.output_dir, config.checkpoint_dir))
        self.stops = Stops(self.run, self.monitor)

    def train(self) -> None:
        """Runs all steps, and finishes the run; or stops it early, so that it can go on."""
        gc.freeze()  # as GrpoTrainer.run_steps
        try:
            is_over = self._run_steps()
        finally:
            gc.unfreeze()
        if is_over:
            self._finish()

    def _run_steps(self) -> bool:
        run = self.run
        if run.first_step == 1:
            self._evaluate(0)
        with self.profiler, self.monitor, closing(self.trace):
            for step in range(run.first_step, run.last_step + 1):
                with self.profiler.step(step), self.trace.step(step):
                    self._step(step)
                if step < run.last_step and self.stops.is_asked_to_stop():
                    self.stops.stop(step, "stopped by SIGTERM")
                    return False
                self.stops.stop_before_memory_is_short(step)
        return True

    def _step(self, step: int) -> None:
        run = self.run
        run.clock.begin_step(step)
        indices = run.state.sampler.take(run.config.prompts_per_step)
        with run.clock.phase("update"):
            sequences, divergence = run.task.update(run.scoring, indices)
            done = run.trainer.step(sequences, divergence)
        seconds, traffic = run.clock.take()
        metrics = StepMetrics(step, self._metrics(step, done, seconds))
        if divergence is not None:
            metrics.values["preference/divergence"] = divergence
        if traffic.num_bytes:
            metrics.values["swap/bytes"] = float(traffic.num_bytes)
        interval = run.config.rl_config.eval_interval
        if step == run.last_step or (interval and step % interval == 0):
            self._evaluate(step, metrics)
        run.report.step(metrics)
        # last: what a resumed run does not repeat is written by now
        if run.persistence.is_due_after(step, run.last_step):
            self.stops.save(step)

    def _metrics(self, step: int, done: SupervisedStep, seconds: dict[str, float]) -> dict[str, float]:
        run, scale = self.run, self.run.roles.actor.optimizer.loss_scale
        reported = done.statistics if run.roles.actor.mesh.reports else {}
        sizes = (done.num_computed, done.num_padding, len(run.trainer.batcher.graphs), rss_gb(), peak_rss_gb())
        own = (reported, self.monitor.take(step), *sizes)
        kind = tuple[dict[str, float], dict[str, float], int, int, int, float, float]
        of_ranks = gather_objects(run.mesh.world, own, kind)
        statistics, hosts, computed, padding, graphs, rss, peak = map(list, zip(*of_ranks, strict=True))
        total: dict[str, float] = {}
        for each in statistics:
            total = merged_statistics(total, each)
        is_scaled = scale.is_dynamic
        is_left_out = is_scaled and done.grad_norm == float("inf")
        return {
            "epoch": run.state.sampler.epochs,
            **run.task.metrics(total),
            "policy/grad_norm": 0.0 if is_left_out else done.grad_norm,
            "policy/lr": done.lr,
            **({"policy/loss_scale": scale.value, "policy/overflows": float(is_left_out)} if is_scaled else {}),
            "batch/tokens": float(done.num_tokens),
            "batch/padding_share": sum(padding) / max(1, sum(computed)),
            "graphs/compiled": float(max(graphs)),
            "speed/trained_tokens_per_s": done.num_tokens / max(seconds["update"], 1e-9),
            **{f"time_s/{name}": seconds[name] for name in ("step", "update", "swap")},
            "memory/rss_gb": max(rss),
            "memory/peak_rss_gb": max(peak),
            **{key: max(host[key] for host in hosts) for key in hosts[0]},
        }

    def _evaluate(self, step: int, metrics: StepMetrics | None = None) -> None:
        run = self.run
        if not run.has_held_out:
            return
        run.report.console.phase("evaluate")
        run.report.evaluation(step, run.task.evaluate(run.scoring), metrics)
        if run.samples is not None:
            run.samples.write(step)

    def _finish(self) -> None:
        run = self.run
        run.report.console.phase("finish")
        run.report.console.close()
        if run.config.rl_config.save_hf_model:
            self.stops.export("hf")
        run.roles.residency.close()
        run.report.finish(run.last_step, run.roles.residency.largest_phase_bytes)
