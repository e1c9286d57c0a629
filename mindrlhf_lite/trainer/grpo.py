"""The GRPO loop.

Ordering contract of a step: the rollout engine generates from the weights of the last reshard; verifiers score; the
reference and, before several updates, the frozen policy are scored with weights that do not move; the actor updates;
reshard copies the actor's weights into the rollout engine. Nothing else writes weights. A checkpoint is taken after the
reshard, so a resumed run starts with the rollout weights rebuilt from the actor's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from mindspore import Tensor, ops

from mindrlhf_lite.algorithms.advantage import ADVANTAGES
from mindrlhf_lite.checkpoint.store import Checkpoint, CheckpointStore, prefixed, unprefixed
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.records import read_prompts
from mindrlhf_lite.data.sampler import PromptSampler, SamplerState
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.evaluation import EVALUATION_STREAM, Evaluation, generate_groups, judge, summarise
from mindrlhf_lite.models.hf_weights import save_hf_model
from mindrlhf_lite.observe.console import Console
from mindrlhf_lite.observe.host import git_commit, peak_rss_gb, rss_gb, versions
from mindrlhf_lite.observe.plots import write_plots
from mindrlhf_lite.observe.profile import StepProfiler
from mindrlhf_lite.observe.writers import MetricsWriter, completion_rows, read_metrics, write_atomically, write_completions
from mindrlhf_lite.parallel.mesh import Mesh, barrier, gather_objects
from mindrlhf_lite.rewards.runner import RewardFunction
from mindrlhf_lite.trainer.experience import as_sequences, score_groups, share_of_rank
from mindrlhf_lite.trainer.resume import check_same_run, prompts_digest
from mindrlhf_lite.trainer.roles import PolicyUpdate, build_roles
from mindrlhf_lite.trainer.schedule import LearningRate
from mindrlhf_lite.trainer.statistics import UpdateCounts, count_rollouts, rollout_metrics, update_metrics
from mindrlhf_lite.types import Prompt, RolloutGroup, SamplingParams, ScoredGroup, StepMetrics, TrainSequence


class GrpoTrainer:
    """One run on this rank: builds the roles, trains, evaluates, writes files (rank 0), saves and resumes."""

    def __init__(self, config: Config, mesh: Mesh):
        rl = config.rl_config
        self.config, self.mesh, self.output = config, mesh, Path(rl.output_dir)
        self.started, self.seconds = time.perf_counter(), {"generate": 0.0, "reward": 0.0, "reference": 0.0, "update": 0.0, "reshard": 0.0, "swap": 0.0}
        self.tokenizer = Tokenizer(config.tokenizer_dir)
        self.prompts = self._read(rl.dataset_file)
        self.held_out = self._read(rl.eval_dataset_file)[: rl.eval_max_prompts or None] if rl.eval_dataset_file else []
        self.reward = RewardFunction(config.reward_config.verifier_function, config.reward_config.verifier_weight, config.reward_config.verifier_timeout_s)
        self.sampler = PromptSampler(len(self.prompts), rl.seed)
        self.last_step = rl.max_steps or max(1, rl.epochs * len(self.prompts) // config.prompts_per_step)
        self.roles = build_roles(config, mesh)
        if len(self.prompts) < config.prompts_per_step:
            raise ValueError(
                f"dataset_file {rl.dataset_file}: {len(self.prompts)} prompts, but a step takes chunk_size * num_rollouts = {config.prompts_per_step}"
            )
        if self.tokenizer.size > self.roles.model_config.vocab_size:
            raise ValueError(
                f"tokenizer_dir={config.tokenizer_dir}: {self.tokenizer.size} ids, but the model's vocabulary has {self.roles.model_config.vocab_size}"
            )
        lr, updates = config.actor_config.lr_schedule, self.last_step * config.updates_per_step
        self.update = PolicyUpdate(config, self.roles, mesh, LearningRate(lr.lr_decay_style, lr.lr, lr.min_lr, lr.warmup_step, lr.decay_steps or updates))
        self.sampling, self.eval_sampling = self._sampling_params()
        self.store = CheckpointStore(config.checkpoint_dir, rl.save_max_ckpt_num)
        self.evaluations: dict[str, Evaluation] = {}
        self.profiler = StepProfiler(config.profiler_config, self.output / "profile", mesh.rank)
        notes = self._resume()
        self.console = Console(mesh.is_main, self.last_step, self.first_step, config.monitor_config.progress_bar, config.monitor_config.print_interval)
        self.writer = MetricsWriter(self.output, rl.tensorboard, self.first_step - 1) if mesh.is_main else None
        if self.sampling.has_filters or self.sampling.temperature != 1.0 or self.sampling.min_tokens:
            notes.append(
                "note: completions are not drawn from the policy itself (temperature, filters or min_tokens); the loss does not correct for it, see rollout/sampling_gap_mean"
            )
        for note in notes:
            self.console.say(note)

    def train(self) -> None:
        """Runs all steps; every rank calls it."""
        is_new, is_over = self.first_step == 1, self.first_step > self.last_step
        self._evaluate(self.first_step - 1, is_due=is_new or (is_over and "after" not in self.evaluations))
        for step in range(self.first_step, self.last_step + 1):
            with self.profiler.step(step):
                start, metrics = time.perf_counter(), StepMetrics(step)
                groups = self._generate(step)
                scored = self._score(groups)
                sequences = self._reference(scored)
                counts, norm = self._update(sequences, groups)
                moved = self._reshard()
            self._collect(metrics, scored, counts, norm, moved, start)
            self._evaluate(step, is_due=self._evaluation_is_due(step), metrics=metrics)
            self._report(metrics, scored)
            self._save(step)  # last: what a resumed run does not repeat is written by now
        self._finish()

    def _generate(self, step: int) -> list[RolloutGroup]:
        """This rank's share of the step's prompts, completed; chunk by chunk."""
        rl, groups = self.config.rl_config, []
        with self._timed("generate"):
            for _ in range(rl.num_rollouts):
                indices = share_of_rank(self.sampler.take(rl.chunk_size), self.mesh.rank, self.mesh.world_size)
                prompts = [self.prompts[index] for index in indices]
                groups += generate_groups(self.roles.rollout, self.tokenizer, prompts, rl.num_generations, self.sampling, (rl.seed, step))
        return groups

    def _score(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        with self._timed("reward"):
            return score_groups(groups, self.reward, ADVANTAGES[self.config.rl_config.advantage])

    def _reference(self, scored: Sequence[ScoredGroup]) -> list[TrainSequence]:
        with self._timed("reference"):
            return self.update.add_reference(as_sequences(scored))

    def _update(self, sequences: Sequence[TrainSequence], groups: Sequence[RolloutGroup]) -> tuple[UpdateCounts, float]:
        with self._timed("update"):
            return self.update.run(sequences, [completion.policy_logprobs for group in groups for completion in group.completions])

    def _reshard(self) -> int:
        """The actor's weights into the rollout engine; with data parallelism every rank holds all it needs. Returns bytes copied."""
        with self._timed("reshard"):
            return self.roles.rollout.update_weights(self.roles.actor.model.named_weights())

    def _evaluation_is_due(self, step: int) -> bool:
        interval = self.config.rl_config.eval_interval
        return step == self.last_step or bool(interval and step % interval == 0)

    def _evaluate(self, step: int, is_due: bool, metrics: StepMetrics | None = None) -> None:
        if not (is_due and self.held_out):
            return
        self.console.phase("evaluate")
        indices = share_of_rank(range(len(self.held_out)), self.mesh.rank, self.mesh.world_size)
        prompts, samples = [self.held_out[index] for index in indices], self.config.rl_config.eval_samples
        groups = generate_groups(self.roles.rollout, self.tokenizer, prompts, samples, self.eval_sampling, (self.config.rl_config.seed, EVALUATION_STREAM))
        correct = judge(groups, self.reward) if groups else np.zeros((0, samples), bool)
        result = summarise(np.concatenate(gather_objects(self.mesh.data, correct)))
        self.evaluations["before" if step == 0 else "after" if step >= self.last_step else f"step_{step}"] = result
        if metrics is not None:
            metrics.values.update({"eval/accuracy": result.accuracy, "eval/low": result.low, "eval/high": result.high})
        self.console.say(
            f"held-out accuracy after step {step}: {result.accuracy:.1%} (95 % interval {result.low:.1%} to {result.high:.1%}, {result.num_questions} questions)"
        )

    def _collect(self, metrics: StepMetrics, scored: Sequence[ScoredGroup], counts: UpdateCounts, norm: float, moved: int, start: float) -> None:
        """Fills in the step's metrics from all ranks."""
        ranks = gather_objects(self.mesh.data, (count_rollouts(scored), counts, rss_gb(), peak_rss_gb(), moved))
        rollouts, updates, rss, peak, bytes_moved = map(list, zip(*ranks, strict=True))
        seconds = time.perf_counter() - start
        tokens = sum(sum(counts.completion_tokens) for counts in rollouts)
        times = {f"time_s/{name}": value for name, value in self.seconds.items()}
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        metrics.values.update(
            {
                "epoch": float(self.sampler.state.epoch + self.sampler.state.position / len(self.prompts)),
                **update_metrics(updates, self.config.updates_per_step),
                "policy/grad_norm": norm,
                "policy/lr": self.update.last_lr,
                **rollout_metrics(rollouts),
                "time_s/step": seconds,
                **times,
                "speed/generated_tokens_per_s": tokens / max(times["time_s/generate"], 1e-9),
                "speed/trained_tokens_per_s": sum(counts.num_tokens for counts in updates) / max(times["time_s/update"], 1e-9),
                "reshard/bytes": float(sum(bytes_moved)),
                "reshard/lower_bound_bytes": 0.0,
                "reshard/gb_per_s": sum(bytes_moved) / 1e9 / max(times["time_s/reshard"], 1e-9),
                "swap/bytes": 0.0,
                "memory/rss_gb": max(rss),
                "memory/peak_rss_gb": max(peak),
            }
        )

    def _report(self, metrics: StepMetrics, scored: Sequence[ScoredGroup]) -> None:
        rl = self.config.rl_config
        if rl.save_prompt_completions_data and metrics.step % rl.save_prompt_completions_interval == 0:
            rows = [row for rows in gather_objects(self.mesh.data, completion_rows(scored)) for row in rows]
            if self.mesh.is_main:
                write_completions(self.output, metrics.step, rows)
        if self.writer is not None:
            self.writer.write(metrics)
        self.console.step(metrics)

    def _save(self, step: int) -> None:
        interval = self.config.rl_config.save_ckpt_interval
        if not interval or step % interval:
            return
        self.console.phase("save")
        if self.mesh.is_main:
            optimizer = self.roles.actor.optimizer
            tensors = {**prefixed("weight", self.roles.actor.model.weights_as_numpy()), **prefixed("optimizer", optimizer.state())}
            evaluations = {name: result.as_dict() for name, result in self.evaluations.items()}
            state = {
                "updates_done": optimizer.updates_done,
                "sampler": asdict(self.sampler.state),
                "prompts_digest": prompts_digest(self.prompts),
                "decay_steps": self.update.schedule.decay_steps,
                "world_size": self.mesh.world_size,
                "config": asdict(self.config),
                "versions": versions(),
                "evaluations": evaluations,
            }
            self.store.save(Checkpoint(step, state, tensors))
        barrier(self.mesh.data)

    def _resume(self) -> list[str]:
        """Sets `first_step`, from a checkpoint if asked. Returns lines for the console."""
        self.first_step = 1
        if not self.config.rl_config.resume_training:  # config.validate has refused an output folder that holds a run
            return []
        checkpoint, notes = self.store.load_newest()
        if checkpoint is None and notes:
            raise ValueError("resume_training: no whole checkpoint is left:\n" + "\n".join(f"  - {note}" for note in notes))
        if checkpoint is None:
            return [*notes, f"no checkpoint to resume from in {self.store.folder}: starting from step 1"]
        check_same_run(checkpoint.state, asdict(self.config), prompts_digest(self.prompts))
        for parameter in self.roles.actor.model.parameters_in_order:
            ops.assign(parameter, Tensor(checkpoint.tensors[f"weight/{parameter.name}"]))
        self.roles.actor.optimizer.load_state(unprefixed("optimizer", checkpoint.tensors), checkpoint.state["updates_done"])
        self.sampler.restore(SamplerState(**checkpoint.state["sampler"]))
        self.evaluations = {name: _evaluation_from(values) for name, values in checkpoint.state["evaluations"].items()}
        self.roles.rollout.update_weights(self.roles.actor.model.named_weights())
        self.first_step = checkpoint.step + 1
        if checkpoint.state["world_size"] != self.mesh.world_size:
            notes.append(f"the checkpoint was made on {checkpoint.state['world_size']} rank(s): results go on equal to about 1e-5, not bit for bit")
        # a decay over "all updates of the run" keeps the length that it started with, whatever max_steps is now
        self.update.schedule = replace(self.update.schedule, decay_steps=checkpoint.state["decay_steps"])
        return [*notes, f"resumed after step {checkpoint.step} from {self.store.folder / f'step_{checkpoint.step}'}"]

    def _finish(self) -> None:
        self.console.phase("finish")
        self.reward.close()
        self.console.close()
        if self.writer is None:
            return
        self.writer.close()
        stops = list(self.sampling.stop_token_ids)
        if self.config.rl_config.save_hf_model:
            save_hf_model(
                self.output / "hf",
                self.roles.model_config,
                self.roles.actor.model.weights_as_numpy(),
                stops[0] if len(stops) == 1 else stops,
                self.tokenizer.pad_token_id,
            )
            self.tokenizer.save(self.output / "hf")
        if self.config.monitor_config.plots:
            write_plots(read_metrics(self.output / "metrics.jsonl"), self.output / "plots")
        summary = {
            "accuracy": {name: result.as_dict() for name, result in self.evaluations.items()},
            "steps": self.last_step,
            "seconds": time.perf_counter() - self.started,
            "seed": self.config.rl_config.seed,
            "world_size": self.mesh.world_size,
            "peak_rss_gb": peak_rss_gb(),
            "versions": versions(),
            "git_commit": git_commit(),
            "config": asdict(self.config),
        }
        write_atomically(self.output / "summary.json", json.dumps(summary, indent=1) + "\n")
        print(f"done: {self.output} (summary.json, metrics.jsonl, completions, plots, hf)", flush=True)

    def _read(self, path: str) -> list[Prompt]:
        prompts, limit = read_prompts(path), self.config.generate_config.max_prompt_length
        if longest := [prompt for prompt in prompts if len(prompt.ids) > limit][:1]:
            raise ValueError(
                f"dataset_file {path}: row {longest[0].row} has {len(longest[0].ids)} tokens, over generate_config.max_prompt_length={limit}; raise it, or convert again"
            )
        return prompts

    def _sampling_params(self) -> tuple[SamplingParams, SamplingParams]:
        s = self.config.generate_config.sampling_config
        stops = tuple(s.eos_token_id) or ((self.tokenizer.eos_token_id,) if self.tokenizer.eos_token_id is not None else ())
        if bad := [token for token in stops if not 0 <= token < self.roles.model_config.vocab_size]:
            raise ValueError(
                f"generate_config.sampling_config.eos_token_id={list(stops)}: {bad} lie outside the vocabulary of {self.roles.model_config.vocab_size}"
            )
        training = SamplingParams(s.max_tokens, s.min_tokens, s.temperature, s.top_k, s.top_p, s.repetition_penalty, stops)
        return training, SamplingParams(s.max_tokens, temperature=self.config.rl_config.eval_temperature, stop_token_ids=stops)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        self.console.phase(name)
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


def _evaluation_from(values: dict) -> Evaluation:
    low, high = values["interval_95"]
    return Evaluation(values["num_questions"], values["num_samples"], values["accuracy"], low, high, {int(k): v for k, v in values["pass_at"].items()})
