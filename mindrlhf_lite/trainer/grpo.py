"""The GRPO loop.

Ordering contract of a step: the rollout engine generates from the weights of the last reshard; verifiers score; the
frozen roles and, before several updates, the frozen policy score with weights that do not move; advantages are made of
all groups; the actor updates; reshard moves the actor's weights into the reference, now and then, and into the rollout
engine. Nothing else writes weights. The rollout weights are never loaded or saved: whoever generates first finds them
empty and reshards.

Memory: every phase runs inside a residency phase, which has in memory what `config.roles.phases_of_run` lists for it,
and nothing else where swapping is on.

Data: generation and rewards work on this rank's share; then all ranks hold the whole step's groups in one order, and
each role takes the share that its own data-parallel degree gives it.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.config.roles import CRITIC
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.experience_file import ExperienceHeader, experience_path, write_experience
from mindrlhf_lite.learner.statistics import UpdateCounts
from mindrlhf_lite.observe.host_monitor import HostMonitor
from mindrlhf_lite.observe.profile import DeviceTrace, StepProfiler
from mindrlhf_lite.parallel.mesh import Mesh
from mindrlhf_lite.trainer.assembly import assemble_grpo
from mindrlhf_lite.trainer.ending import Ending
from mindrlhf_lite.trainer.step_metrics import step_metrics
from mindrlhf_lite.types import ScoredGroup, StepMetrics, TrainSequence


class GrpoTrainer:
    """One run on this rank; every rank makes one."""

    def __init__(self, config: Config, mesh: Mesh):
        rl, profiler = config.rl_config, config.profiler_config
        self.run = assemble_grpo(config, mesh)
        self.profiler = StepProfiler(profiler, Path(rl.output_dir) / "profile", mesh.rank)
        traces = Path(profiler.profile_save_path or f"{rl.output_dir}/profiler")
        self.trace = DeviceTrace(profiler, traces, mesh.rank)
        self.monitor = HostMonitor(config.monitor_config, ResumeHint.of(rl.output_dir, config.checkpoint_dir))
        self.ending = Ending(self.run, self.monitor)

    def train(self) -> None:
        """Runs all steps, and finishes the run; or stops it early, so that it can go on."""
        if (last := self.run_steps()) is not None:
            self.ending.finish(last)

    def run_steps(self) -> int | None:
        """Returns the last step of a run that is over; None where it was stopped."""
        gc.freeze()  # MindSpore collects garbage before it compiles a graph: 0.3 s each time, with all that is imported
        try:
            return self._run_steps()
        finally:
            gc.unfreeze()

    def _run_steps(self) -> int | None:
        run, ending = self.run, self.ending
        is_new, is_over = run.first_step == 1, run.first_step > run.last_step
        if run.evaluator.prompts and (is_new or (is_over and "after" not in run.state.evaluations)):
            self._evaluate(run.first_step - 1)
        if not is_new and not is_over and ending.has_gained_nothing():  # it was over by early stopping
            return run.first_step - 1
        with self.profiler, self.monitor, closing(self.trace):
            for step in range(run.first_step, run.last_step + 1):
                self._step(step)
                if run.evaluator.is_due_after(step) and ending.has_gained_nothing():
                    return step
                if step < run.last_step and ending.is_asked_to_stop():
                    ending.stop(step, "stopped by SIGTERM")
                    return None
                ending.stop_before_memory_is_short(step)
        return run.last_step

    def _step(self, step: int) -> None:
        run, metrics, update = self.run, StepMetrics(step), self.run.training.update
        with self.profiler.step(step), self.trace.step(step):
            run.clock.begin_step(step)
            scored = run.collection.run(step, run.state.sampler)
            sequences, reward_kl = run.annotator.annotate(scored, run.state.kl.value)
            self._write_experience(step, scored, sequences)
            with run.clock.phase("update"), update.dumps.step(step):
                update.dumps.key_data(sequences, np.concatenate([group.rewards for group in scored]))
                counts = self._update_actor(step, scored, sequences)
            metrics.values.update(self._update_critic(sequences))
            run.moving_reference.move_after(step)
            moved = run.rollout_weights.move()
        metrics.values.update(step_metrics(run, self.monitor, step, scored, counts, moved, reward_kl))
        warnings = run.health.look(step, metrics.values, sequences)
        measured = reward_kl if run.config.rl_config.kl_in_reward else metrics.values.get("policy/kl")
        if measured is not None:  # else nothing was trained
            run.state.kl.adapt(measured)
        if run.evaluator.is_due_after(step) and not run.health.must_end:
            self._evaluate(step, metrics)
            self.ending.save_best(step)
        run.report.step(metrics, scored, sequences)
        for warning in warnings:
            run.report.console.say(warning)
        run.health.end_if_it_must(step)
        # last: what a resumed run does not repeat is written by now
        if run.persistence.is_due_after(step, run.last_step):
            self.ending.save(step)

    def _update_actor(
        self, step: int, scored: Sequence[ScoredGroup], sequences: Sequence[TrainSequence]
    ) -> UpdateCounts:
        """Not while a critic is warmed up."""
        run = self.run
        if run.training.critic_update is not None and step <= run.config.critic_config.warmup_steps:
            return UpdateCounts(largest_weight=run.training.update.largest_weight())
        reported = [each.engine_logprobs for group in scored for each in group.group.completions]
        return run.training.update.run(sequences, reported, run.state.kl.value, run.state.schedule)

    def _update_critic(self, sequences: Sequence[TrainSequence]) -> dict[str, float]:
        """Returns its metrics; none where there is no critic."""
        run = self.run
        if run.training.critic_update is None:
            return {}
        with run.clock.phase(CRITIC.name):
            return run.training.critic_update.run(sequences, run.critic_schedule)

    def _evaluate(self, step: int, metrics: StepMetrics | None = None) -> None:
        self.run.report.console.phase("evaluate")
        self.run.rollout_weights.move_if_missing()
        self.run.report.evaluation(step, self.run.evaluator.run(step), metrics)

    def _write_experience(self, step: int, scored: Sequence[ScoredGroup], sequences: Sequence[TrainSequence]) -> None:
        """For tools/replay.py, where it is asked for."""
        run = self.run
        if not run.config.rl_config.save_data_file or not run.mesh.is_main:
            return
        header = ExperienceHeader(
            step,
            run.state.kl.value,
            run.tokenizer.fingerprint(),
            run.persistence.digest,
            run.state.sampler.num_prompts,
            run.state.schedule.decay_steps,
            asdict(run.config),
        )
        write_experience(experience_path(run.config.rl_config.save_data_file, step), header, scored, sequences)
