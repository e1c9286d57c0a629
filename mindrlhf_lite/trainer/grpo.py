"""The GRPO loop.

Ordering contract of a step: the rollout engine generates from the weights of the last reshard; verifiers score; the
reference and, before several updates, the frozen policy are scored with weights that do not move; the actor updates;
reshard moves the actor's weights into the rollout engine. Nothing else writes weights. The rollout weights are never loaded or
saved: whoever generates first finds them empty and reshards.

Memory: every phase runs inside `residency.phase`, which has in memory what `roles.phases` lists for it, and nothing else where
swapping is on.

Data: generation and rewards work on this rank's share; then all ranks hold the whole step's groups in one order, and each role takes
the share that its own data-parallel degree gives it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mindspore import Tensor, ops

from mindrlhf_lite.algorithms.advantage import ADVANTAGES
from mindrlhf_lite.checkpoint.sharded import ShardedReader
from mindrlhf_lite.checkpoint.store import Checkpoint, CheckpointStore, SavedCheckpoint, prefixed
from mindrlhf_lite.checkpoint.strategies import strategy_from_json, strategy_to_json
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.records import read_file
from mindrlhf_lite.data.sampler import PromptSampler, SamplerState
from mindrlhf_lite.data.tokenizer import TOKENIZER_FOLDER, Tokenizer
from mindrlhf_lite.evaluation import EVALUATION_STREAM, Evaluation, correctness, generate_groups, judge, question_rows, summarise
from mindrlhf_lite.observe.console import Console
from mindrlhf_lite.observe.host import git_commit, peak_rss_gb, rss_gb, versions
from mindrlhf_lite.observe.plots import write_plots
from mindrlhf_lite.observe.profile import StepProfiler
from mindrlhf_lite.observe.writers import MetricsWriter, completion_rows, read_metrics, write_atomically, write_completions
from mindrlhf_lite.parallel.layout import fill_buffers
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.reshard.executor import Moved
from mindrlhf_lite.rewards.runner import RewardFunction
from mindrlhf_lite.swap.residency import State
from mindrlhf_lite.trainer.experience import as_sequences, score_groups, share_of_rank
from mindrlhf_lite.trainer.export import Export
from mindrlhf_lite.trainer.resume import check_same_run, is_exact, prompts_digest
from mindrlhf_lite.trainer.roles import PolicyUpdate, build_roles
from mindrlhf_lite.trainer.schedule import LearningRate
from mindrlhf_lite.trainer.statistics import UpdateCounts, rollout_metrics, update_metrics
from mindrlhf_lite.types import Prompt, RolloutGroup, SamplingParams, ScoredGroup, StepMetrics, TrainSequence


class GrpoTrainer:
    """One run on this rank: builds the roles, trains, evaluates, writes files (rank 0), saves and resumes."""

    def __init__(self, config: Config, mesh: Mesh):
        rl = config.rl_config
        self.config, self.mesh, self.output = config, mesh, Path(rl.output_dir)
        self.start_rss = max(gather_objects(mesh.world, rss_gb()))
        self.started, self.seconds = time.perf_counter(), {"generate": 0.0, "reward": 0.0, "reference": 0.0, "update": 0.0, "reshard": 0.0, "swap": 0.0}
        self.tokenizer = Tokenizer(config.tokenizer_dir)
        self.prompts = self._read(rl.dataset_file)
        self.held_out = self._read(rl.eval_dataset_file)[: rl.eval_max_prompts or None] if rl.eval_dataset_file else []
        reward = config.reward_config
        ranks_here = gather_objects(mesh.world, mesh.host).count(mesh.host)
        num_workers = reward.num_workers or max(1, len(os.sched_getaffinity(0)) // ranks_here)
        self.reward = RewardFunction(reward.verifier_function, reward.verifier_weight, reward.verifier_timeout_s, num_workers)
        self.sampler = PromptSampler(len(self.prompts), rl.seed)
        self.last_step = rl.max_steps or max(1, rl.epochs * len(self.prompts) // config.prompts_per_step)
        self.roles = build_roles(config, mesh)
        self.residency, self.num_reshards = self.roles.residency, 0
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
        if not rl.rollout_is_cap and (self.sampling.has_filters or self.sampling.temperature != 1.0 or self.sampling.min_tokens):
            notes.append(
                "note: completions are not drawn from the policy itself (temperature, filters or min_tokens; see rollout/sampling_gap_mean); rl_config.rollout_is_cap=2.0 corrects for it"
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
                counts, norm = self._update(sequences, scored)
                moved = self._reshard()
            self._collect(metrics, scored, counts, norm, moved, start)
            self._evaluate(step, is_due=self._evaluation_is_due(step), metrics=metrics)
            self._report(metrics, scored)
            self._save(step)  # last: what a resumed run does not repeat is written by now
        self._finish()

    def _generate(self, step: int) -> dict[int, RolloutGroup]:
        """The groups that this rank goes on with, by their place in the step. Tensor ranks complete the same prompts and share them after."""
        rl, mesh, groups = self.config.rl_config, self.roles.rollout_mesh, {}
        self._refresh_rollout()
        with self._timed("generate", "generate", then="reference" if self.roles.reference else None):
            for chunk in range(rl.num_rollouts):
                indices = self.sampler.take(rl.chunk_size)
                places = share_of_rank(range(rl.chunk_size), mesh.at.data, mesh.dims.data)
                prompts = [self.prompts[indices[place]] for place in places]
                completed = generate_groups(self.roles.rollout, self.tokenizer, prompts, rl.num_generations, self.sampling, (rl.seed, step))
                for number in share_of_rank(range(len(places)), mesh.at.tensor, mesh.dims.tensor):
                    groups[chunk * rl.chunk_size + places[number]] = completed[number]
        return groups

    def _score(self, groups: dict[int, RolloutGroup]) -> list[ScoredGroup]:
        """All groups of the step with rewards and advantages, on every rank, in the order of the prompts."""
        with self._timed("reward"):
            leaves_out = self.config.reward_config.on_failure == "leave_out"
            own = score_groups(list(groups.values()), self.reward, ADVANTAGES[self.config.rl_config.advantage], leaves_out)
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
            return self.update.run(sequences, [completion.policy_logprobs for group in scored for completion in group.group.completions])

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
        """Reshards again where a phase since the last reshard took the rollout weights' memory, or there was none yet."""
        if self.residency.state("rollout") is State.EMPTY:
            self._reshard()

    def _evaluation_is_due(self, step: int) -> bool:
        interval = self.config.rl_config.eval_interval
        return step == self.last_step or bool(interval and step % interval == 0)

    def _evaluate(self, step: int, is_due: bool, metrics: StepMetrics | None = None) -> None:
        if not (is_due and self.held_out):
            return
        self.console.phase("evaluate")
        mesh, samples = self.roles.rollout_mesh, self.config.rl_config.eval_samples
        prompts = [self.held_out[index] for index in share_of_rank(range(len(self.held_out)), mesh.at.data, mesh.dims.data)]
        self._refresh_rollout()
        with self.residency.phase("generate"):
            groups = generate_groups(self.roles.rollout, self.tokenizer, prompts, samples, self.eval_sampling, (self.config.rl_config.seed, EVALUATION_STREAM))
        groups = groups[mesh.at.tensor :: mesh.dims.tensor]
        own = question_rows(groups, judge(groups, self.reward)) if groups else []
        rows = sorted((row for share in gather_objects(self.mesh.world, own) for row in share), key=lambda row: row["index"])
        result = summarise(correctness(rows, "evaluation"))
        if self.config.rl_config.save_prompt_completions_data and self.mesh.is_main:
            write_completions(self.output, f"eval_{step:06d}", rows)
        self.evaluations["before" if step == 0 else "after" if step >= self.last_step else f"step_{step}"] = result
        values = {"eval/accuracy": result.accuracy, "eval/low": result.low, "eval/high": result.high}
        if metrics is not None:
            metrics.values.update(values)
        elif step == 0 and self.writer is not None:
            self.writer.write(StepMetrics(0, values))
        self.console.say(
            f"held-out accuracy after step {step}: {result.accuracy:.1%} (95 % interval {result.low:.1%} to {result.high:.1%}, {result.num_questions} questions)"
        )

    def _collect(self, metrics: StepMetrics, scored: Sequence[ScoredGroup], counts: UpdateCounts, norm: float, moved: Moved, start: float) -> None:
        """Fills in the step's metrics from all ranks."""
        traffic = self.residency.take_traffic()
        self.seconds["swap"] += traffic.seconds
        ranks = gather_objects(self.mesh.world, (counts, rss_gb(), peak_rss_gb(), moved, traffic.num_bytes))
        updates, rss, peak, moves, swapped = map(list, zip(*ranks, strict=True))
        seconds = time.perf_counter() - start
        tokens = sum(len(completion.token_ids) for group in scored for completion in group.group.completions)
        times = {f"time_s/{name}": value for name, value in self.seconds.items()}
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        metrics.values.update(
            {
                "epoch": float(self.sampler.state.epoch + self.sampler.state.position / len(self.prompts)),
                **update_metrics(updates, self.config.updates_per_step),
                "policy/grad_norm": norm,
                "policy/lr": self.update.last_lr,
                **rollout_metrics(scored, self.config.rl_config.rollout_is_cap),
                "time_s/step": seconds,
                **times,
                "speed/generated_tokens_per_s": tokens / max(times["time_s/generate"], 1e-9),
                "speed/trained_tokens_per_s": sum(counts.num_tokens for counts in updates) / max(times["time_s/update"], 1e-9),
                "reshard/bytes": float(sum(move.received_bytes for move in moves)),
                "reshard/lower_bound_bytes": float(self.roles.reshard_bound_bytes),
                "reshard/copied_bytes": float(sum(move.copied_bytes for move in moves)),
                "reshard/gb_per_s": sum(move.copied_bytes for move in moves) / 1e9 / max(move.seconds for move in moves),
                "swap/bytes": float(sum(swapped)),
                "memory/rss_gb": max(rss),
                "memory/peak_rss_gb": max(peak),
            }
        )

    def _report(self, metrics: StepMetrics, scored: Sequence[ScoredGroup]) -> None:
        rl = self.config.rl_config
        if rl.save_prompt_completions_data and metrics.step % rl.save_prompt_completions_interval == 0 and self.mesh.is_main:
            write_completions(self.output, f"step_{metrics.step:06d}", completion_rows(scored))
        if self.writer is not None:
            self.writer.write(metrics)
        self.console.step(metrics)

    def _save(self, step: int) -> None:
        interval = self.config.rl_config.save_ckpt_interval
        if not interval or (step % interval and step != self.last_step):
            return
        self.console.phase("save")
        optimizer, actor = self.roles.actor.optimizer, self.roles.actor
        state = {
            "updates_done": optimizer.updates_done,
            "sampler": asdict(self.sampler.state),
            "prompts_digest": prompts_digest(self.prompts),
            "decay_steps": self.update.schedule.decay_steps,
            "world_size": self.mesh.world_size,
            "strategy": strategy_to_json(optimizer.strategy),
            "model": self.roles.model_config.to_hf(self._end_token_ids, self.tokenizer.pad_token_id),
            "config": asdict(self.config),
            "versions": versions(),
            "evaluations": {name: result.as_dict() for name, result in self.evaluations.items()},
        }
        with self.residency.phase("save"):
            tensors = {}
            if actor.mesh.at.data == 0:
                tensors = prefixed("weight", actor.model.weights_as_numpy())
            if actor.mesh.at.data == 0 or optimizer.strategy.splits_data:
                tensors.update(prefixed("optimizer", optimizer.state()))
            checkpoint = Checkpoint(step, state, tensors, lambda folder: self.tokenizer.save(folder / TOKENIZER_FOLDER))
            self.store.save(checkpoint, self.mesh.rank, self._gather)

    def _resume(self) -> list[str]:
        """Sets `first_step`, from a checkpoint if asked. Returns lines for the console."""
        self.first_step = 1
        if not self.config.rl_config.resume_training:  # config.validate has refused an output folder that holds a run
            return []
        # one rank reads the checksums of all files; the others take its word
        checkpoint, notes = gather_objects(self.mesh.world, self.store.load_newest() if self.mesh.is_main else None)[0]
        if checkpoint is None and notes:
            raise ValueError("resume_training: no whole checkpoint is left:\n" + "\n".join(f"  - {note}" for note in notes))
        if checkpoint is None:
            return [*notes, f"no checkpoint to resume from in {self.store.folder}: starting from step 1"]
        check_same_run(checkpoint.state, asdict(self.config), prompts_digest(self.prompts))
        self._restore(checkpoint)
        self.sampler.restore(SamplerState(**checkpoint.state["sampler"]))
        self.evaluations = {name: _evaluation_from(values) for name, values in checkpoint.state["evaluations"].items()}
        self.first_step = checkpoint.step + 1
        if not is_exact(checkpoint.state, asdict(self.config), self.mesh.world_size):
            notes.append("the checkpoint was made under other parallel strategies: results go on equal up to the order of additions, not bit for bit")
        # a decay over "all updates of the run" keeps the length that it started with, whatever max_steps is now
        self.update.schedule = replace(self.update.schedule, decay_steps=checkpoint.state["decay_steps"])
        return [*notes, f"resumed after step {checkpoint.step} from {self.store.folder / f'step_{checkpoint.step}'}"]

    def _restore(self, checkpoint: SavedCheckpoint) -> None:
        """This rank's weights and optimizer state, from the files of whatever strategy they were saved under."""
        actor, optimizer = self.roles.actor, self.roles.actor.optimizer
        saved = strategy_from_json(checkpoint.state["strategy"], f"{checkpoint.folder}/state.json")
        with self.residency.phase("restore"):
            reader = ShardedReader(checkpoint.folder, self.roles.model_config, replace(saved, splits_data=False), "weight/")
            for name, values in fill_buffers(actor.model.buffers, reader.read).items():
                ops.assign(actor.model.named_weights()[name], Tensor(values))
            state = {}
            for moment in ("adam_m", "adam_v"):
                reader = ShardedReader(checkpoint.folder, self.roles.model_config, saved, f"optimizer/{moment}.")
                state.update({f"{moment}.{name}": values for name, values in fill_buffers(optimizer.buffers, reader.read).items()})
            optimizer.load_state(state, checkpoint.state["updates_done"])

    @property
    def _end_token_ids(self) -> int | list[int]:
        stops = list(self.sampling.stop_token_ids)
        return stops[0] if len(stops) == 1 else stops

    def _gather(self, value: Any) -> list[Any]:
        return gather_objects(self.mesh.world, value)

    def _finish(self) -> None:
        self.console.phase("finish")
        self.reward.close()
        self.console.close()
        if self.config.rl_config.save_hf_model:
            Export(self.roles, self.mesh, self.tokenizer, self._end_token_ids).run(self.output / "hf")
        self.residency.close()
        largest, peak = (max(values) for values in zip(*gather_objects(self.mesh.world, (self.residency.largest_phase_bytes, peak_rss_gb())), strict=True))
        if self.writer is None:
            return
        self.writer.close()
        if self.config.monitor_config.plots:
            write_plots(read_metrics(self.output / "metrics.jsonl"), self.output / "plots")
        summary = {
            "accuracy": {name: result.as_dict() for name, result in self.evaluations.items()},
            "steps": self.last_step,
            "seconds": time.perf_counter() - self.started,
            "seed": self.config.rl_config.seed,
            "world_size": self.mesh.world_size,
            "memory": {"start_rss_gb": self.start_rss, "peak_rss_gb": peak, "largest_phase_gb": largest / 2**30},  # GiB, of the fullest rank
            "versions": versions(),
            "git_commit": git_commit(),
            "config": asdict(self.config),
        }
        write_atomically(self.output / "summary.json", json.dumps(summary, indent=1) + "\n")
        print(f"done: {self.output} (summary.json, metrics.jsonl, completions, plots, hf)", flush=True)

    def _read(self, path: str) -> list[Prompt]:
        (header, prompts), limit = read_file(path), self.config.generate_config.max_prompt_length
        header.check(self.tokenizer, self.config.tokenizer_dir, path)
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
        penalties = (s.repetition_penalty, s.presence_penalty, s.frequency_penalty)
        training = SamplingParams(s.max_tokens, s.min_tokens, s.temperature, s.top_k, s.top_p, s.min_p, *penalties, stop_token_ids=stops)
        return training, SamplingParams(s.max_tokens, temperature=self.config.rl_config.eval_temperature, stop_token_ids=stops)

    @contextmanager
    def _timed(self, name: str, phase: str | None = None, then: str | None = None) -> Iterator[None]:
        """Adds to time_s/NAME what happens within, in a residency phase if one is named; bringing that in counts as swapping."""
        self.console.phase(name)
        with self.residency.phase(phase, then) if phase else nullcontext():
            start = time.perf_counter()
            yield
            self.seconds[name] += time.perf_counter() - start


def _evaluation_from(values: dict) -> Evaluation:
    low, high = values["interval_95"]
    return Evaluation(values["num_questions"], values["num_samples"], values["accuracy"], low, high, {int(k): v for k, v in values["pass_at"].items()})
