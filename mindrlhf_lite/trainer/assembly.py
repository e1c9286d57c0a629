"""The one place where a run is put together: what every loop over a trained model has, and what a GRPO run adds.

The loops: trainer/grpo.py, trainer/replay.py; trainer/supervised.py needs a trained model only.
"""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import lcm

from mindrlhf_lite.algorithms.aggregation import AGGREGATIONS
from mindrlhf_lite.config.roles import CRITIC, REWARD_MODEL, scoring_roles
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.episodes.play import Stage
from mindrlhf_lite.observe.host import rss_gb
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.rewards.reward_function import RewardFunction
from mindrlhf_lite.roles.build import build_roles, kernels_of_run
from mindrlhf_lite.roles.models import Roles, TrainedRoles
from mindrlhf_lite.scoring.scorer import Scorer
from mindrlhf_lite.scoring.sequences import MicroBatcher, SequenceScoring
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.trainer.annotation import POLICY, Annotator
from mindrlhf_lite.trainer.collection import Collection
from mindrlhf_lite.trainer.critic_update import CriticUpdate
from mindrlhf_lite.trainer.evaluator import Evaluator
from mindrlhf_lite.trainer.experience import Experience
from mindrlhf_lite.trainer.health_watch import HealthWatch
from mindrlhf_lite.trainer.kl_coefficient import KlCoefficient
from mindrlhf_lite.trainer.learning_rate import LearningRate, learning_rate_of, schedule_of_run
from mindrlhf_lite.trainer.model_reward import ModelReward
from mindrlhf_lite.trainer.moving_reference import MovingReference
from mindrlhf_lite.trainer.persistence import Persistence
from mindrlhf_lite.trainer.phase_clock import PhaseClock
from mindrlhf_lite.trainer.prompts import prompts_of_run, sampler_of_run
from mindrlhf_lite.trainer.report import Report
from mindrlhf_lite.trainer.reward_texts import Reader, reader_of
from mindrlhf_lite.trainer.rollout_weights import RolloutWeights
from mindrlhf_lite.trainer.run_state import RunState
from mindrlhf_lite.trainer.same_run import prompts_digest
from mindrlhf_lite.trainer.sampling import end_token_ids, off_policy_notes, sampling_of_run
from mindrlhf_lite.trainer.stage import stage_of_run
from mindrlhf_lite.trainer.update import PolicyUpdate
from mindrlhf_lite.trainer.verifier_trial import elsewhere_of, trial_of
from mindrlhf_lite.types import VALUES, Prompt


@dataclass
class Training:
    """What every loop that updates the actor has."""

    scoring: SequenceScoring
    update: PolicyUpdate
    critic_update: CriticUpdate | None


def assemble_training(config: Config, mesh: Mesh, roles: TrainedRoles) -> Training:
    rl, actor = config.rl_config, roles.actor.mesh.dims
    scorers: list[Scorer] = [*roles.scorers.values(), *([roles.reward_model] if roles.reward_model else [])]
    critic, all_dims = roles.critic, [actor, *(scorer.model.mesh.dims for scorer in scorers)]
    all_dims += [] if critic is None else [critic.trained.mesh.dims]
    multiple, parts = lcm(*(dims.tensor for dims in all_dims)), lcm(*(dims.context for dims in all_dims))

    def shapes(sequences: int = 0) -> StreamShapes:
        tokens = config.micro_batch_tokens(actor.shares, sequences)
        return StreamShapes(tokens, rl.seq_length, multiple, parts)

    batcher = MicroBatcher(AGGREGATIONS[rl.loss_aggregation], rl.packing)
    scoring = SequenceScoring(mesh, batcher, shapes(config.ref_config.ref_model_batch_size))
    of_critic = None if critic is None else CriticUpdate(config, critic, roles.residency, mesh, shapes())
    return Training(scoring, PolicyUpdate(config, roles, mesh, batcher, shapes()), of_critic)


@dataclass
class GrpoRun:
    """A GRPO run on this rank."""

    config: Config
    mesh: Mesh
    tokenizer: Tokenizer
    roles: Roles
    training: Training
    reward: RewardFunction
    stage: Stage | None
    experience: Experience
    evaluator: Evaluator
    state: RunState
    persistence: Persistence
    health: HealthWatch
    report: Report
    clock: PhaseClock
    first_step: int
    last_step: int
    read_by_reward_model: Reader
    rollout_weights: RolloutWeights = field(init=False)
    moving_reference: MovingReference = field(init=False)
    collection: Collection = field(init=False)
    annotator: Annotator = field(init=False)

    def __post_init__(self) -> None:
        config, roles = self.config, self.roles
        self.rollout_weights = RolloutWeights(roles, self.clock, config.rl_config.reshard_check_interval)
        self.moving_reference = MovingReference(config, roles, self.clock)
        model, then = roles.reward_model, next(iter(roles.scorers), None)
        reward = None
        if model is not None:
            reward = ModelReward(config, model, self.training.scoring, self.clock, self.read_by_reward_model)
        then = then if model is None else REWARD_MODEL.name
        self.collection = Collection(config, self.experience, self.clock, self.rollout_weights, then, reward)
        self.annotator = Annotator(config, roles, self.training.scoring, self._while_scoring)

    @property
    def critic_schedule(self) -> LearningRate:
        """Where it decays over the run, over as many updates as the actor's, and those in which it is warmed up."""
        critic = self.config.critic_config
        updates = self.state.schedule.decay_steps + critic.warmup_steps * self.config.updates_per_step
        return learning_rate_of(critic.lr_schedule, updates)

    def _while_scoring(self, name: str) -> AbstractContextManager[None]:
        """The time of the policy's pass is the update's."""
        if name == POLICY:
            return self.clock.phase("update", POLICY)
        if name == VALUES:
            return self.clock.phase(CRITIC.name, VALUES)
        order = [*self.roles.scorers, "update"]
        return self.clock.phase(name, name, then=order[order.index(name) + 1])


def assemble_grpo(config: Config, mesh: Mesh) -> GrpoRun:
    """Everything up to the first step, resumed where the configuration asks for it; every rank calls it."""
    started, start_rss = time.perf_counter(), max(gather_objects(mesh.world, rss_gb()))
    tokenizer = Tokenizer(config.tokenizer_dir)
    prompts, held_out = prompts_of_run(config, tokenizer)
    reward, read = _reward_of_run(config, mesh, prompts[0]), reader_of(config, prompts[0])
    steps = config.rl_config.max_steps or max(1, config.rl_config.epochs * len(prompts) // config.prompts_per_step)
    roles = build_roles(config, mesh)
    sampling, eval_sampling = sampling_of_run(config, tokenizer, roles.model_config.vocab_size)
    stage, remarks = stage_of_run(config, roles.rollout_mesh, tokenizer, sampling.stop_token_ids)
    training = assemble_training(config, mesh, roles)
    state = RunState(sampler_of_run(config, prompts), schedule_of_run(config, steps), KlCoefficient(config))
    end_tokens = end_token_ids(sampling)
    persistence = Persistence(config, mesh, roles, tokenizer, prompts_digest(prompts), end_tokens, steps)
    first_step, notes = persistence.resume(state)
    health = HealthWatch(config, mesh, state, persistence, roles.model_config.vocab_size)
    health.begin(training.update.largest_weight())
    report = Report(config, mesh, first_step, steps, started, start_rss, tokenizer.decode)
    kernels = kernels_of_run(config)
    for note in (
        *filter(None, [kernels and f"kernels: {kernels}"]),
        *notes,
        *off_policy_notes(config, sampling),
        *remarks,
    ):
        report.console.say(note)
    return GrpoRun(
        config,
        mesh,
        tokenizer,
        roles,
        training,
        reward,
        stage,
        Experience(config, mesh, roles, tokenizer, prompts, sampling, reward, stage),
        Evaluator(config, mesh, roles, tokenizer, reward, held_out, eval_sampling, steps, state.evaluations, stage),
        state,
        persistence,
        health,
        report,
        PhaseClock(roles.residency, report.console, _timed_roles(config)),
        first_step,
        steps,
        read,
    )


def _timed_roles(config: Config) -> list[str]:
    """Roles with phases of their own in a step, besides those that every run has."""
    return [*(role.name for role in scoring_roles(config)), *([CRITIC.name] if CRITIC in config.roles else [])]


def _reward_of_run(config: Config, mesh: Mesh, first: Prompt) -> RewardFunction:
    """The verifiers, in as many processes as this rank has cores. Args: first: what they are tried with."""
    reward = config.reward_config
    ranks_here = gather_objects(mesh.world, mesh.host).count(mesh.host)
    workers = reward.num_workers or max(1, len(os.sched_getaffinity(0)) // ranks_here)
    return RewardFunction(
        reward.verifier_function,
        reward.verifier_weight,
        reward.verifier_timeout_s,
        workers,
        config.rl_config.eval_verifier if config.rl_config.eval_dataset_file else "",
        trial_of(first),
        elsewhere_of(config),
    )
