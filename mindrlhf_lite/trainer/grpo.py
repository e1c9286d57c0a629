"""The GRPO loop.

Ordering contract of a step: the rollout engine generates from the weights of the last reshard; verifiers score; the
reference and, before several updates, the frozen policy are scored with weights that do not move; advantages are made
of all groups; the actor updates; reshard moves the actor's weights into the reference, now and then, and into the
rollout engine. Nothing else writes weights. The rollout weights are never
loaded or saved: whoever generates first finds them empty and reshards.

Memory: every phase runs inside a residency phase, which has in memory what `swap.phases` lists for it, and nothing
else where swapping is on.

Data: generation and rewards work on this rank's share; then all ranks hold the whole step's groups in one order, and
each role takes the share that its own data-parallel degree gives it.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.commands.signals import asks_to_stop
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.experience_file import ExperienceHeader, experience_path, write_experience
from mindrlhf_lite.data.prompt_sampler import PromptSampler
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.observe.host import rss_gb
from mindrlhf_lite.observe.host_monitor import HostMonitor, MemoryIsShort, Usage
from mindrlhf_lite.observe.profile import DeviceTrace, StepProfiler
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.rewards.reward_function import RewardFunction
from mindrlhf_lite.roles.build import build_roles
from mindrlhf_lite.trainer.best import best_of, by_step, evaluations_without_gain
from mindrlhf_lite.trainer.collection import Collection
from mindrlhf_lite.trainer.evaluator import Evaluator
from mindrlhf_lite.trainer.experience import Experience
from mindrlhf_lite.trainer.export import Export
from mindrlhf_lite.trainer.health_watch import HealthWatch
from mindrlhf_lite.trainer.learning_rate import LearningRate
from mindrlhf_lite.trainer.moving_reference import MovingReference
from mindrlhf_lite.trainer.persistence import Persistence, Progress
from mindrlhf_lite.trainer.phase_clock import PhaseClock
from mindrlhf_lite.trainer.prompts import prompts_of_run
from mindrlhf_lite.trainer.report import Report
from mindrlhf_lite.trainer.rollout_weights import RolloutWeights
from mindrlhf_lite.trainer.same_run import prompts_digest
from mindrlhf_lite.trainer.sampling import (
    NOT_REPORTED_NOTE,
    OFF_POLICY_NOTE,
    end_token_ids,
    is_off_policy,
    sampling_of_run,
)
from mindrlhf_lite.trainer.update import PolicyUpdate
from mindrlhf_lite.trainer.verifier_trial import trial_of
from mindrlhf_lite.types import CompletionView, ScoredGroup, StepMetrics, TrainSequence


class GrpoTrainer:
    """One run on this rank: builds what it needs, and trains. What a step consists of has rooms of its own."""

    def __init__(self, config: Config, mesh: Mesh):
        rl, lr = config.rl_config, config.actor_config.lr_schedule
        started, start_rss = time.perf_counter(), max(gather_objects(mesh.world, rss_gb()))
        self.config, self.mesh, self.tokenizer = config, mesh, Tokenizer(config.tokenizer_dir)
        prompts, held_out = prompts_of_run(config, self.tokenizer)
        self.reward = _reward_of_run(config, mesh, trial_of(prompts[0]))
        self.last_step = rl.max_steps or max(1, rl.epochs * len(prompts) // config.prompts_per_step)
        self.roles = build_roles(config, mesh)
        sampling, eval_sampling = sampling_of_run(config, self.tokenizer, self.roles.model_config.vocab_size)
        self.experience = Experience(config, mesh, self.roles, self.tokenizer, prompts, sampling, self.reward)
        decay_steps = lr.decay_steps or self.last_step * config.updates_per_step
        schedule = LearningRate(lr.lr_decay_style, lr.lr, lr.min_lr, lr.warmup_step, decay_steps)
        self.update = PolicyUpdate(config, self.roles, mesh, schedule)
        self.evaluator = Evaluator(
            config, mesh, self.roles, self.tokenizer, self.reward, held_out, eval_sampling, self.last_step
        )
        self.progress = Progress(PromptSampler(len(prompts), rl.seed), self.evaluator.results)
        digest, self.end_tokens = prompts_digest(prompts), end_token_ids(sampling)
        self.persistence = Persistence(
            config, mesh, self.roles, self.update, self.tokenizer, digest, self.end_tokens, self.last_step
        )
        self.first_step, notes = self.persistence.resume(self.progress)
        self.health = HealthWatch(config, mesh, self.progress, self.persistence, self.roles.model_config.vocab_size)
        self.health.begin(self.update.largest_weight())
        profiler = config.profiler_config
        self.profiler = StepProfiler(profiler, Path(rl.output_dir) / "profile", mesh.rank)
        traces = Path(profiler.profile_save_path or f"{rl.output_dir}/profiler")
        self.trace = DeviceTrace(profiler, traces, mesh.rank)
        self.monitor = HostMonitor(config.monitor_config, ResumeHint.of(rl.output_dir, config.checkpoint_dir))
        self.report = Report(config, mesh, self.first_step, self.last_step, started, start_rss)
        self.clock = PhaseClock(self.roles.residency, self.report.console)
        self.rollout_weights = RolloutWeights(self.roles, self.clock, rl.reshard_check_interval)
        self.moving_reference = MovingReference(config, self.roles, self.clock)
        self.collection = Collection(
            config, self.experience, self.clock, self.rollout_weights, "reference" if self.roles.reference else None
        )
        if is_off_policy(sampling) and not rl.rollout_is_cap:
            notes = [*notes, NOT_REPORTED_NOTE if config.reports_only_policy_logprobs else OFF_POLICY_NOTE]
        for note in notes:
            self.report.console.say(note)

    def train(self) -> None:
        """Runs all steps; every rank calls it."""
        gc.freeze()  # MindSpore collects garbage before it compiles a graph: 0.3 s each time, with all that is imported
        try:
            self._train()
        finally:
            gc.unfreeze()

    def _train(self) -> None:
        is_new, is_over = self.first_step == 1, self.first_step > self.last_step
        if self.evaluator.prompts and (is_new or (is_over and "after" not in self.evaluator.results)):
            self._evaluate(self.first_step - 1)
        if not is_new and not is_over and self._has_gained_nothing():  # it was over by early stopping
            return self._finish(self.first_step - 1)
        with self.profiler, self.monitor, closing(self.trace):
            for step in range(self.first_step, self.last_step + 1):
                self._step(step)
                if self.evaluator.is_due_after(step) and self._has_gained_nothing():
                    return self._finish(step)
                if step < self.last_step and self._is_asked_to_stop():
                    return self._stop(step, "stopped by SIGTERM")
                self._stop_before_memory_is_short(step)
        return self._finish(self.last_step)

    def _step(self, step: int) -> None:
        metrics = StepMetrics(step)
        with self.profiler.step(step), self.trace.step(step):
            self.clock.begin_step(step)
            scored = self.collection.run(step, self.progress.sampler)
            sequences = self._fixed_logprobs(scored)
            sequences, reward_kl = self.experience.with_advantages(scored, sequences, self.update.kl_coefficient)
            self._write_experience(step, scored, sequences)
            with self.clock.phase("update"), self.update.dumps.step(step):
                self.update.dumps.key_data(sequences, np.concatenate([group.rewards for group in scored]))
                generated = [each.engine_logprobs for group in scored for each in group.group.completions]
                counts = self.update.run(sequences, generated)
            if self.moving_reference.is_due_after(step):
                self.moving_reference.move()
            moved = self.rollout_weights.move()
        metrics.values["epoch"] = self.progress.sampler.epochs
        metrics.values.update(
            self.report.collect(scored, counts, moved, *self.clock.take(), self.roles.reshard_bound_bytes)
        )
        metrics.values.update(self._own_metrics(reward_kl))
        metrics.values.update(self._host_metrics(step))
        warnings = self.health.look(step, metrics.values, sequences)
        measured = reward_kl if self.config.rl_config.kl_in_reward else metrics.values.get("policy/kl")
        if measured is not None:  # else nothing was trained
            self.update.adapt_kl(measured)
        if self.evaluator.is_due_after(step) and not self.health.must_end:
            self._evaluate(step, metrics)
            self._save_best(step)
        self.report.step(metrics, scored, sequences)
        for warning in warnings:
            self.report.console.say(warning)
        self.health.end_if_it_must(step)
        # last: what a resumed run does not repeat is written by now
        if self.persistence.is_due_after(step, self.last_step):
            self._save(step)

    def _write_experience(self, step: int, scored: Sequence[ScoredGroup], sequences: Sequence[TrainSequence]) -> None:
        """For tools/replay.py, where it is asked for."""
        if not self.config.rl_config.save_data_file or not self.mesh.is_main:
            return
        header = ExperienceHeader(
            step,
            self.update.kl_coefficient,
            self.tokenizer.fingerprint(),
            self.persistence.digest,
            self.progress.sampler.num_prompts,
            self.update.schedule.decay_steps,
            asdict(self.config),
        )
        write_experience(experience_path(self.config.rl_config.save_data_file, step), header, scored, sequences)

    def _own_metrics(self, reward_kl: float) -> dict[str, float]:
        """What no other metric tells of optional parts, where they are on."""
        rl, values = self.config.rl_config, {}
        if rl.kl_in_reward:
            values["reward/kl"] = reward_kl
        if rl.kl_ctrl.type == "adaptive":
            values["policy/kl_coefficient"] = self.update.kl_coefficient
        if rl.dynamic_sampling.enabled:
            values["sampling/attempts"] = float(self.collection.num_attempts)
            values["sampling/drawn_groups"] = float(self.collection.num_drawn)
        return values

    def _host_metrics(self, step: int) -> dict[str, float]:
        """What the host monitors saw: the largest of all ranks."""
        ranks = gather_objects(self.mesh.world, self.monitor.take(step)) if self.monitor.has_metrics else [{}]
        return {key: max(values[key] for values in ranks) for key in ranks[0]}

    def _stop_before_memory_is_short(self, step: int) -> None:
        """Raises MemoryIsShort, after a checkpoint, where a rank's host monitor says so."""
        if not self.config.monitor_config.host_memory_protection:
            return
        found = [
            usage
            for usage in gather_objects(self.mesh.world, self.monitor.exceeded(), Usage | None)
            if usage is not None
        ]
        if found and step < self.last_step:
            self._stop(step, "stopped to keep clear of the memory's end")
            raise MemoryIsShort(self.monitor.message(max(found, key=lambda usage: usage.share)))

    def _fixed_logprobs(self, scored: Sequence[ScoredGroup]) -> list[TrainSequence]:
        """The step's training sequences, with the logprobs that stay fixed while the actor moves."""
        sequences = self.experience.sequences(scored)
        if self.roles.reference is not None:
            with self.clock.phase("reference", "reference", then="update"):
                sequences = self.update.add_reference(sequences)
        if self.config.keeps_frozen_policy:
            with self.clock.phase("update", "policy"):
                sequences = self.update.add_policy(sequences)
        return sequences

    def _evaluate(self, step: int, metrics: StepMetrics | None = None) -> None:
        self.report.console.phase("evaluate")
        self.rollout_weights.move_if_missing()
        self.report.evaluation(step, self.evaluator.run(step), metrics)

    def _save_best(self, step: int) -> None:
        """Where it is asked for, the model of the best evaluation so far, if that is this step's."""
        found = best_of(by_step(self.evaluator.results, self.last_step))
        if self.config.rl_config.save_best and found is not None and found.step == step:
            self.report.console.phase("save")
            self._export("best")

    def _has_gained_nothing(self) -> bool:
        """Whether early stopping is asked for, and it is time."""
        stopping = self.config.rl_config.early_stopping
        found = by_step(self.evaluator.results, self.last_step)
        return 0 < stopping.patience <= evaluations_without_gain(found, stopping.min_delta)

    def _export(self, name: str) -> None:
        """Writes the model to OUTPUT/name."""
        folder, dtype = Path(self.config.rl_config.output_dir) / name, self.config.rl_config.save_hf_dtype
        max_weight = self.config.monitor_config.health.max_weight
        Export(self.roles, self.mesh, self.tokenizer, self.end_tokens, dtype, max_weight).run(folder)

    def _save(self, step: int) -> None:
        self.report.console.phase("save")
        self.persistence.save(step, self.progress)

    def _is_asked_to_stop(self) -> bool:
        """Whether any rank was; with rl_config.on_sigterm=save only."""
        return self.config.rl_config.on_sigterm == "save" and any(gather_objects(self.mesh.world, asks_to_stop()))

    def _stop(self, step: int, why: str) -> None:
        """Ends the run early, so that it can go on."""
        if not self.persistence.is_due_after(step, self.last_step):
            self._save(step)
        self.reward.close()
        self.roles.residency.close()
        self.report.stopped(step, why)

    def _finish(self, step: int) -> None:
        """After the last step, or an earlier one where early stopping ends the run."""
        if step < self.last_step:
            stopping = self.config.rl_config.early_stopping
            self.report.console.say(
                f"early stopping after step {step}: {stopping.patience} evaluation(s) without a gain of more than "
                f"{stopping.min_delta:g}"
            )
            is_saved = step < self.first_step or self.persistence.is_due_after(step, self.last_step)
            if self.config.rl_config.save_ckpt_interval and not is_saved:
                self._save(step)
            self.evaluator.results["after"] = self.evaluator.results.pop(f"step_{step}")
        found = best_of(by_step(self.evaluator.results, step))
        self.report.console.phase("finish")
        self.reward.close()
        self.report.console.close()
        if self.config.rl_config.save_hf_model:
            self._export("hf")
        self.roles.residency.close()
        largest, health = self.roles.residency.largest_phase_bytes, self.progress.health
        self.report.finish(step, self.evaluator.results, found, largest, health)


def _reward_of_run(config: Config, mesh: Mesh, trial: tuple[CompletionView, str]) -> RewardFunction:
    """The verifiers, in as many processes as this rank has cores."""
    reward = config.reward_config
    ranks_here = gather_objects(mesh.world, mesh.host).count(mesh.host)
    workers = reward.num_workers or max(1, len(os.sched_getaffinity(0)) // ranks_here)
    return RewardFunction(
        reward.verifier_function,
        reward.verifier_weight,
        reward.verifier_timeout_s,
        workers,
        config.rl_config.eval_verifier if config.rl_config.eval_dataset_file else "",
        trial,
    )
