"""Builds the three roles (actor, reference, rollout) and the policy update around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mindrlhf_lite.algorithms.aggregation import AGGREGATIONS, BatchTotals
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.models.hf_weights import load_weights
from mindrlhf_lite.models.model_config import ModelConfig
from mindrlhf_lite.models.qwen2 import Qwen2
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.rollout.protocol import RolloutEngine
from mindrlhf_lite.trainer.actor import STATISTICS, Actor, LogprobScorer, LossOptions
from mindrlhf_lite.trainer.batches import BucketPlan, MicroBatch, default_buckets, make_microbatch, round_up, split_into_microbatches
from mindrlhf_lite.trainer.optimizer import AdamWOptions
from mindrlhf_lite.trainer.schedule import LearningRate
from mindrlhf_lite.trainer.statistics import UpdateCounts
from mindrlhf_lite.types import TrainSequence


@dataclass
class Roles:
    """The models of this rank. `reference` is None when beta is 0; `policy` scores with the actor's own weights."""

    model_config: ModelConfig
    actor: Actor
    policy: LogprobScorer
    reference: LogprobScorer | None
    rollout: RolloutEngine


def build_roles(config: Config, mesh: Mesh) -> Roles:
    """Loads the weights and builds every role that the configuration needs."""
    rl, optimizer = config.rl_config, config.actor_config.optimizer
    shape = ModelConfig.from_dir(config.actor_config.load)
    weights = load_weights(config.actor_config.load, shape)
    model = Qwen2(shape, weights, trainable=True, max_length=rl.seq_length)
    loss = LossOptions(rl.beta, rl.epsilon_low, rl.epsilon_high, policy_is_frozen=config.updates_per_step > 1)
    options = AdamWOptions(optimizer.adam_beta1, optimizer.adam_beta2, optimizer.eps, optimizer.weight_decay, optimizer.max_grad_norm)
    rollout = NativeEngine(Qwen2(shape, weights, False, rl.seq_length), config.generate_config.max_num_seqs, rl.seq_length, rl.length_buckets)
    reference = None
    if rl.beta > 0:
        reference_dir = config.ref_config.load or config.actor_config.load
        reference_shape = ModelConfig.from_dir(reference_dir)
        if reference_shape.vocab_size != shape.vocab_size:
            raise ValueError(f"ref_config.load={reference_dir}: vocabulary of {reference_shape.vocab_size}, the actor's has {shape.vocab_size}")
        if reference_dir != config.actor_config.load:
            weights = load_weights(reference_dir, reference_shape)
        reference = LogprobScorer(Qwen2(reference_shape, weights, False, rl.seq_length))
    return Roles(shape, Actor(model, loss, options, mesh.data), LogprobScorer(model), reference, rollout)


class PolicyUpdate:
    """Trains the actor on one step's sequences: `num_iterations` passes over minibatches of micro-batches."""

    def __init__(self, config: Config, roles: Roles, mesh: Mesh, schedule: LearningRate):
        rl = config.rl_config
        self.config, self.roles, self.mesh, self.schedule = config, roles, mesh, schedule
        self.aggregation = AGGREGATIONS[rl.loss_aggregation]
        self.max_tokens = config.generate_config.sampling_config.max_tokens
        buckets = tuple(rl.length_buckets) or default_buckets(rl.seq_length)
        self.plan = BucketPlan(buckets, tuple(sorted({min(bucket, self.max_tokens) for bucket in buckets})))
        share = config.completions_per_update // mesh.world_size
        self.rows = -(-share // config.actor_config.parallel_config.micro_batch_num)
        self.minibatch = share
        self.scoring_rows = config.ref_config.ref_model_batch_size or self.rows
        self.last_lr = 0.0

    def score(self, scorer: LogprobScorer, sequences: Sequence[TrainSequence]) -> list[np.ndarray]:
        """Logprobs of every sequence's completion tokens, in order."""
        results: list[np.ndarray] = [np.empty(0, np.float32)] * len(sequences)
        for indices, batch in self._microbatches(sequences, self.scoring_rows, BatchTotals(1, 1, 1)):
            for index, logprobs in zip(indices, scorer.score(batch), strict=True):
                results[index] = logprobs
        return results

    def add_reference(self, sequences: Sequence[TrainSequence]) -> list[TrainSequence]:
        """The sequences with the reference's logprobs, where there is a reference."""
        if self.roles.reference is None:
            return list(sequences)
        scored = self.score(self.roles.reference, sequences)
        return [replace(sequence, reference_logprobs=logprobs) for sequence, logprobs in zip(sequences, scored, strict=True)]

    def run(self, sequences: Sequence[TrainSequence], rollout_logprobs: Sequence[np.ndarray]) -> tuple[UpdateCounts, float]:
        """All updates of a step.

        Args: rollout_logprobs: the rollout engine's policy logprobs of every sequence, for comparison only.
        Returns: (this rank's counts, mean gradient norm before clipping).
        """
        counts, norms = UpdateCounts(np.zeros(len(STATISTICS)), 0), []
        sequences = list(sequences)
        if self.config.updates_per_step > 1:  # frozen before the first update
            frozen = self.score(self.roles.policy, sequences)
            sequences = [replace(sequence, policy_logprobs=logprobs) for sequence, logprobs in zip(sequences, frozen, strict=True)]
            for logprobs, generated in zip(frozen, rollout_logprobs, strict=True):
                _compare(counts, logprobs, generated)
        for _ in range(self.config.rl_config.num_iterations):
            for start in range(0, len(sequences), self.minibatch):
                norms.append(self._update_once(sequences[start : start + self.minibatch], rollout_logprobs[start : start + self.minibatch], counts))
        return counts, float(np.mean(norms))

    def _update_once(self, sequences: list[TrainSequence], rollout_logprobs: Sequence[np.ndarray], counts: UpdateCounts) -> float:
        own = (sum(sequence.completion_length for sequence in sequences), len(sequences))
        ranks = gather_objects(self.mesh.data, own)
        totals = BatchTotals(sum(tokens for tokens, _ in ranks), sum(number for _, number in ranks), self.max_tokens)
        batches = self._microbatches(sequences, self.rows, totals)
        statistics, logprobs = self.roles.actor.accumulate([batch for _, batch in batches])
        if self.config.updates_per_step == 1:
            for (indices, _), rows in zip(batches, logprobs, strict=True):
                for index, row in zip(indices, rows, strict=True):
                    _compare(counts, row, rollout_logprobs[index])
        self.last_lr = self.schedule.at(self.roles.actor.optimizer.updates_done)
        norm = self.roles.actor.apply(self.last_lr)
        counts.statistics[:-1] += statistics[:-1]
        counts.statistics[-1] = max(counts.statistics[-1], statistics[-1])
        counts.num_tokens += own[0]
        return norm

    def _microbatches(self, sequences: Sequence[TrainSequence], rows: int, totals: BatchTotals) -> list[tuple[list[int], MicroBatch]]:
        # sorted by padded length, so that sequences stay in order within a bucket
        lengths = [round_up(len(sequence.token_ids), self.plan.total) for sequence in sequences]
        return [
            (indices, make_microbatch([sequences[index] for index in indices], rows, self.plan, self.aggregation, totals))
            for indices in split_into_microbatches(lengths, rows)
        ]


def _compare(counts: UpdateCounts, logprobs: np.ndarray, generated: np.ndarray) -> None:
    difference = np.abs(logprobs - generated)
    counts.logprob_diff_sum += float(difference.sum())
    counts.logprob_diff_max = max(counts.logprob_diff_max, float(difference.max()))
    counts.num_diff_tokens += len(difference)
