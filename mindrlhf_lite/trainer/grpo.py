"""The GRPO loop.

Ordering contract of a step: the rollout engine generates from the weights of the last reshard; verifiers score; the
reference and, before several updates, the frozen policy are scored with weights that do not move; the actor updates;
reshard moves the actor's weights into the rollout engine. Nothing else writes weights. The rollout weights are never
loaded or saved: whoever generates first finds them empty and reshards.

Memory: every phase runs inside `residency.phase`, which has in memory what `roles.phases` lists for it, and nothing
else where swapping is on.

Data: generation and rewards work on this rank's share; then all ranks hold the whole step's groups in one order, and
each role takes the share that its own data-parallel degree gives it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from mindrlhf_lite.algorithms.advantage import ADVANTAGES
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.sampler import PromptSampler
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.evaluation import generate_groups
from mindrlhf_lite.job.signals import asks_to_stop
from mindrlhf_lite.observe.host import rss_gb
from mindrlhf_lite.observe.profile import StepProfiler
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.reshard.executor import Moved
from mindrlhf_lite.rewards.runner import RewardFunction
from mindrlhf_lite.swap.residency import State
from mindrlhf_lite.trainer.evaluator import Evaluator
from mindrlhf_lite.trainer.experience import as_sequences, score_groups, share_of_rank
from mindrlhf_lite.trainer.export import Export
from mindrlhf_lite.trainer.persistence import Persistence, Progress
from mindrlhf_lite.trainer.prompts import prompts_of_run
from mindrlhf_lite.trainer.report import Report
from mindrlhf_lite.trainer.resume import prompts_digest
from mindrlhf_lite.trainer.roles import build_roles
from mindrlhf_lite.trainer.sampling import end_token_ids, sampling_of_run
from mindrlhf_lite.trainer.schedule import LearningRate
from mindrlhf_lite.trainer.statistics import UpdateCounts
from mindrlhf_lite.trainer.update import PolicyUpdate
from mindrlhf_lite.types import RolloutGroup, ScoredGroup, StepMetrics, TrainSequence

PHASES = ("generate", "reward", "reference", "update", "reshard", "swap")  # time_s/NAME of every step


class GrpoTrainer:
    """One run on this rank: builds what it needs, and trains. Evaluation, files and checkpoints have rooms of their
    own.
    """

    def __init__(self, config: Config, mesh: Mesh):
        rl, reward = config.rl_config, config.reward_config
        started, start_rss = time.perf_counter(), max(gather_objects(mesh.world, rss_gb()))
        self.config, self.mesh, self.seconds = config, mesh, dict.fromkeys(PHASES, 0.0)
        self.tokenizer = Tokenizer(config.tokenizer_dir)
        self.prompts, held_out = prompts_of_run(config, self.tokenizer)
        ranks_here = gather_objects(mesh.world, mesh.host).count(mesh.host)
        workers = reward.num_workers or max(1, len(os.sched_getaffinity(0)) // ranks_here)
        self.reward = RewardFunction(
            reward.verifier_function, reward.verifier_weight, reward.verifier_timeout_s, workers
        )
        self.last_step = rl.max_steps or max(1, rl.epochs * len(self.prompts) // config.prompts_per_step)
        self.roles = build_roles(config, mesh)
        self.residency, self.num_reshards = self.roles.residency, 0
        lr, updates = config.actor_config.lr_schedule, self.last_step * config.updates_per_step
        schedule = LearningRate(lr.lr_decay_style, lr.lr, lr.min_lr, lr.warmup_step, lr.decay_steps or updates)
        self.update = PolicyUpdate(config, self.roles, mesh, schedule)
        self.sampling, eval_sampling = sampling_of_run(config, self.tokenizer, self.roles.model_config.vocab_size)
        self.evaluator = Evaluator(
            config, mesh, self.roles, self.tokenizer, self.reward, held_out, eval_sampling, self.last_step
        )
        self.progress = Progress(PromptSampler(len(self.prompts), rl.seed), self.evaluator.results)
        digest, self.end_tokens = prompts_digest(self.prompts), end_token_ids(self.sampling)
        self.persistence = Persistence(config, mesh, self.roles, self.update, self.tokenizer, digest, self.end_tokens)
        self.first_step, notes = self.persistence.resume(self.progress)
        self.profiler = StepProfiler(config.profiler_config, Path(rl.output_dir) / "profile", mesh.rank)
        self.report = Report(config, mesh, self.first_step, self.last_step, started, start_rss)
        is_off_policy = self.sampling.has_filters or self.sampling.temperature != 1.0 or self.sampling.min_tokens
        if is_off_policy and not rl.rollout_is_cap:
            notes.append(
                "note: completions are not drawn from the policy itself (temperature, filters or min_tokens; "
                "see rollout/sampling_gap_mean); rl_config.rollout_is_cap=2.0 corrects for it"
            )
        for note in notes:
            self.report.console.say(note)

    def train(self) -> None:
        """Runs all steps; every rank calls it."""
        is_new, is_over = self.first_step == 1, self.first_step > self.last_step
        if self.evaluator.prompts and (is_new or (is_over and "after" not in self.evaluator.results)):
            self._evaluate(self.first_step - 1)
        with self.profiler:
            for step in range(self.first_step, self.last_step + 1):
                self._step(step)
                if step < self.last_step and self._is_asked_to_stop():
                    return self._stop(step)
        return self._finish()

    def _step(self, step: int) -> None:
        self.report.console.begin(step)
        with self.profiler.step(step):
            start, metrics = time.perf_counter(), StepMetrics(step)
            groups = self._generate(step)
            scored = self._score(groups)
            sequences = self._reference(scored)
            counts, norm = self._update(sequences, scored)
            moved = self._reshard()
        self._collect(metrics, scored, counts, norm, moved, start)
        if self.evaluator.is_due_after(step):
            self._evaluate(step, metrics)
        self.report.step(metrics, scored)
        # last: what a resumed run does not repeat is written by now
        if self.persistence.is_due_after(step, self.last_step):
            self._save(step)

    def _generate(self, step: int) -> dict[int, RolloutGroup]:
        """The groups that this rank goes on with, by their place in the step. Tensor ranks complete the same prompts
        and share them after.
        """
        rl, mesh, groups = self.config.rl_config, self.roles.rollout_mesh, {}
        self._refresh_rollout()
        with self._timed("generate", "generate", then="reference" if self.roles.reference else None):
            for chunk in range(rl.num_rollouts):
                indices = self.progress.sampler.take(rl.chunk_size)
                places = share_of_rank(range(rl.chunk_size), mesh.at.data, mesh.dims.data)
                prompts = [self.prompts[indices[place]] for place in places]
                seed = (rl.seed, step)
                completed = generate_groups(
                    self.roles.rollout, self.tokenizer, prompts, rl.num_generations, self.sampling, seed
                )
                for number in share_of_rank(range(len(places)), mesh.at.tensor, mesh.dims.tensor):
                    groups[chunk * rl.chunk_size + places[number]] = completed[number]
        return groups

    def _score(self, groups: dict[int, RolloutGroup]) -> list[ScoredGroup]:
        """All groups of the step with rewards and advantages, on every rank, in the order of the prompts."""
        advantage = ADVANTAGES[self.config.rl_config.advantage]
        leaves_out = self.config.reward_config.on_failure == "leave_out"
        with self._timed("reward"):
            own = score_groups(list(groups.values()), self.reward, advantage, leaves_out)
            shares = gather_objects(self.mesh.world, list(zip(groups, own, strict=True)))
        return [scored for _, scored in sorted((pair for share in shares for pair in share), key=lambda pair: pair[0])]

    def _reference(self, scored: Sequence[ScoredGroup]) -> list[TrainSequence]:
        """The step's training sequences, with the logprobs that stay fixed while the actor moves."""
        sequences = as_sequences(scored)
        if self.roles.reference is not None:
            with self._timed("reference", "reference", then="update"):
                sequences = self.update.add_reference(sequences)
        if self.config.updates_per_step > 1:
            with self._timed("update", "policy"):
                sequences = self.update.add_policy(sequences)
        return sequences

    def _update(self, sequences: Sequence[TrainSequence], scored: Sequence[ScoredGroup]) -> tuple[UpdateCounts, float]:
        with self._timed("update", "update"):
            return self.update.run(
                sequences, [completion.engine_logprobs for group in scored for completion in group.group.completions]
            )

    def _reshard(self) -> Moved:
        """The actor's weights into the rollout engine's layout."""
        interval = self.config.rl_config.reshard_check_interval
        is_checked = self.num_reshards == 0 or bool(interval and self.num_reshards % interval == 0)
        with self._timed("reshard", "reshard"):
            moved = self.roles.resharder.run(self.residency.source("actor"), is_checked)
            self.roles.rollout.weights_changed()
        self.num_reshards += 1
        return moved

    def _refresh_rollout(self) -> None:
        """Reshards again where a phase since the last reshard took the rollout weights' memory, or there was none
        yet.
        """
        if self.residency.state("rollout") is State.EMPTY:
            self._reshard()

    def _evaluate(self, step: int, metrics: StepMetrics | None = None) -> None:
        self.report.console.phase("evaluate")
        self.report.evaluation(step, self.evaluator.run(step, self._refresh_rollout), metrics)

    def _collect(
        self,
        metrics: StepMetrics,
        scored: Sequence[ScoredGroup],
        counts: UpdateCounts,
        norm: float,
        moved: Moved,
        start: float,
    ) -> None:
        traffic = self.residency.take_traffic()
        self.seconds["swap"] += traffic.seconds
        times, self.seconds = self.seconds, dict.fromkeys(PHASES, 0.0)
        sampler, bound = self.progress.sampler.state, self.roles.reshard_bound_bytes
        metrics.values.update(
            {
                "epoch": float(sampler.epoch + sampler.position / len(self.prompts)),
                "policy/grad_norm": norm,
                "policy/lr": self.update.last_lr,
                **self.report.collect(scored, counts, moved, traffic, time.perf_counter() - start, times, bound),
            }
        )

    def _save(self, step: int) -> None:
        self.report.console.phase("save")
        self.persistence.save(step, self.progress)

    def _is_asked_to_stop(self) -> bool:
        """Whether any rank was; with rl_config.on_sigterm=save only."""
        return self.config.rl_config.on_sigterm == "save" and any(gather_objects(self.mesh.world, asks_to_stop()))

    def _stop(self, step: int) -> None:
        """Ends the run early, so that it can go on."""
        if not self.persistence.is_due_after(step, self.last_step):
            self._save(step)
        self.reward.close()
        self.residency.close()
        self.report.stopped(step)

    def _finish(self) -> None:
        self.report.console.phase("finish")
        self.reward.close()
        self.report.console.close()
        if self.config.rl_config.save_hf_model:
            Export(self.roles, self.mesh, self.tokenizer, self.end_tokens).run(
                Path(self.config.rl_config.output_dir) / "hf"
            )
        self.residency.close()
        self.report.finish(self.evaluator.results, self.residency.largest_phase_bytes)

    @contextmanager
    def _timed(self, name: str, phase: str | None = None, then: str | None = None) -> Iterator[None]:
        """Adds to time_s/NAME what happens within, in a residency phase if one is named; bringing that in counts as
        swapping.
        """
        self.report.console.phase(name)
        with self.residency.phase(phase, then) if phase else nullcontext():
            start = time.perf_counter()
            yield
            self.seconds[name] += time.perf_counter() - start
