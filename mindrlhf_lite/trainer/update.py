"""The policy update: packs one step's sequences into minibatches and micro-batches, and updates the actor with them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from mindrlhf_lite.algorithms.aggregation import BatchTotals
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.learner.statistics import UpdateCounts, merged_statistics
from mindrlhf_lite.observe.dump import Dumps
from mindrlhf_lite.parallel.mesh import Mesh, is_simulated
from mindrlhf_lite.parallel.shares import share_of_update
from mindrlhf_lite.roles.models import TrainedRoles
from mindrlhf_lite.scoring.batches import MicroBatch
from mindrlhf_lite.scoring.sequences import MicroBatcher
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.trainer.actor_update import update_actor
from mindrlhf_lite.trainer.dumping import UpdateDump
from mindrlhf_lite.trainer.learning_rate import LearningRate
from mindrlhf_lite.trainer.soundness import largest_of
from mindrlhf_lite.types import TrainSequence


class PolicyUpdate:
    """Trains the actor on one step's sequences: `num_iterations` passes over minibatches of micro-batches.

    Every rank is given all sequences of the step, in one order, and takes its data-parallel share (`share_of_update`).
    So an update uses the same completions under any strategy.
    """

    def __init__(self, config: Config, roles: TrainedRoles, mesh: Mesh, batcher: MicroBatcher, shapes: StreamShapes):
        self.config, self.roles, self.mesh = config, roles, mesh
        self.dumps = Dumps(config, mesh)
        self._dump, self._batcher, self._shapes = UpdateDump(self.dumps, roles.actor), batcher, shapes
        self._max_tokens = config.generate_config.sampling_config.max_tokens
        self._minibatch = config.completions_per_update

    def run(
        self,
        sequences: Sequence[TrainSequence],
        engine_logprobs: Sequence[np.ndarray | None],
        kl_coefficient: float,
        schedule: LearningRate,
    ) -> UpdateCounts:
        """All updates of a step, each in its own residency phases. Returns what this rank has to report.

        Args: engine_logprobs: the rollout engine's policy logprobs of every sequence, for comparison only; None where
        it reports none at the temperature of the trained policy.
        """
        counts, norms = UpdateCounts(), []
        if self.mesh.is_main:
            for sequence, reported in zip(sequences, engine_logprobs, strict=True):
                if sequence.frozen_logprobs is not None:
                    counts.compare(sequence.frozen_logprobs, reported, sequence.sampling_logprobs, sequence.written)
        for iteration in range(self.config.rl_config.num_iterations):
            for start in range(0, len(sequences), self._minibatch):
                norms.append(
                    self._update_once(
                        sequences[start : start + self._minibatch],
                        engine_logprobs[start : start + self._minibatch],
                        kl_coefficient,
                        schedule,
                        counts,
                        is_first=iteration == start == 0,
                        compares=iteration == 0 and not self.config.keeps_frozen_policy,
                    )
                )
        applied = [norm for norm in norms if np.isfinite(norm)]
        counts.grad_norm, counts.num_overflows = float(np.mean(applied or [0.0])), len(norms) - len(applied)
        if (scale := self.roles.actor.optimizer.loss_scale).is_dynamic:
            counts.loss_scale = scale.value
        counts.largest_weight = self.largest_weight()
        return counts

    def largest_weight(self) -> float:
        """The largest absolute weight of this rank's share of the actor; infinity where one is not finite."""
        if is_simulated():  # nothing is computed
            return 0.0
        with self.roles.residency.phase("policy"):
            model = self.roles.actor.model
            weights = model.trained if model.config.adapters else model.parameters_in_order
            return largest_of(weight.asnumpy() for weight in weights)

    def _update_once(
        self,
        sequences: Sequence[TrainSequence],
        engine_logprobs: Sequence[np.ndarray | None],
        kl_coefficient: float,
        schedule: LearningRate,
        counts: UpdateCounts,
        is_first: bool,
        compares: bool,
    ) -> float:
        mesh, group = self.roles.actor.mesh, self.config.rl_config.num_generations
        totals = BatchTotals(sum(sequence.num_counted for sequence in sequences), len(sequences), self._max_tokens)
        mine = share_of_update(len(sequences), group, mesh.share, mesh.dims.shares)
        teaching = [index for index in mine if self._teaches(sequences[index])]
        counts.num_skipped, mine = counts.num_skipped + len(mine) - len(teaching), teaching
        batches = self._microbatches([sequences[index] for index in mine], totals, kl_coefficient)
        counts.num_computed += sum(len(batch.token_ids) for _, batch in batches)
        counts.num_padding += sum(batch.num_padding for _, batch in batches)
        counts.lr = schedule.at(self.roles.actor.optimizer.updates_done)
        seen = [([mine[index] for index in indices], batch) for indices, batch in batches] if is_first else []
        watching = self._dump.watching(seen) if is_first else nullcontext()
        own_batches = [batch for _, batch in batches]
        statistics, logprobs, norm = update_actor(self.config, self.roles, self.mesh, own_batches, counts.lr, watching)
        counts.num_graphs = len(self._batcher.graphs)
        if mesh.reports:
            for (indices, _), rows in zip(seen, logprobs, strict=False):
                self.dumps.logprobs(dict(zip(indices, rows, strict=True)))
            if compares:
                for (indices, _), rows in zip(batches, logprobs, strict=True):
                    for index, row in zip(indices, rows, strict=True):
                        place = mine[index]
                        sequence = sequences[place]
                        counts.compare(row, engine_logprobs[place], sequence.sampling_logprobs, sequence.written)
            counts.statistics = merged_statistics(counts.statistics, statistics)
            counts.num_tokens += sum(sequences[index].num_counted for index in mine)
        return norm

    def _teaches(self, sequence: TrainSequence) -> bool:
        """Whether its gradient can be other than zero."""
        rl = self.config.rl_config
        has_other_terms = (rl.beta > 0 and not rl.kl_in_reward) or rl.entropy_coeff > 0 or rl.distillation.coef > 0
        return bool(sequence.mask.any()) and (has_other_terms or bool(sequence.advantages.any()))

    def _microbatches(
        self, sequences: Sequence[TrainSequence], totals: BatchTotals, kl_coefficient: float
    ) -> list[tuple[list[int], MicroBatch]]:
        numbers = (np.float32(kl_coefficient), np.float32(self.roles.actor.optimizer.loss_scale.value))
        return [
            (indices, replace(batch, kl_coefficient=numbers[0], loss_scale=numbers[1]))
            for indices, batch in self._batcher.cut("update", sequences, self._shapes, totals)
        ]
