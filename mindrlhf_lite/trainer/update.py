"""The policy update: one step's sequences in minibatches and micro-batches, and the logprobs that stay fixed while the
actor moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import lcm

import numpy as np

from mindrlhf_lite.algorithms.aggregation import AGGREGATIONS, BatchTotals
from mindrlhf_lite.algorithms.kl import adapted_coefficient
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.learner.statistics import UpdateCounts, merged_statistics
from mindrlhf_lite.observe.dump import Dumps
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects, is_simulated
from mindrlhf_lite.roles.build import TrainedRoles
from mindrlhf_lite.scoring.batches import MicroBatch, make_microbatch, pack
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.swap.phases import phase_of_part
from mindrlhf_lite.trainer.dumping import UpdateDump
from mindrlhf_lite.trainer.learning_rate import LearningRate
from mindrlhf_lite.trainer.soundness import largest_of
from mindrlhf_lite.types import TrainSequence


class PolicyUpdate:
    """Trains the actor on one step's sequences: `num_iterations` passes over minibatches of micro-batches.

    Every rank is given all sequences of the step, in one order, and takes its data-parallel share (`share_of_update`).
    So an update uses the same completions under any strategy.
    """

    def __init__(self, config: Config, roles: TrainedRoles, mesh: Mesh, schedule: LearningRate):
        rl, self.dumps = config.rl_config, Dumps(config, mesh)
        self._dump = UpdateDump(self.dumps, roles.actor)
        self.config, self.roles, self.mesh, self.schedule = config, roles, mesh, schedule
        self.aggregation = AGGREGATIONS[rl.loss_aggregation]
        self.max_tokens = config.generate_config.sampling_config.max_tokens
        self.minibatch = config.completions_per_update
        degree, length = roles.actor.mesh.dims.shares, rl.seq_length
        all_dims = [roles.actor.mesh.dims]
        if roles.reference is not None:
            all_dims.append(roles.reference.model.mesh.dims)
        multiple, parts = lcm(*(dims.tensor for dims in all_dims)), lcm(*(dims.context for dims in all_dims))
        self.shapes = StreamShapes(config.micro_batch_tokens(degree), length, multiple, parts)
        scoring_tokens = config.micro_batch_tokens(degree, config.ref_config.ref_model_batch_size)
        self.scoring_shapes = StreamShapes(scoring_tokens, length, multiple, parts)
        self.kl_coefficient = rl.beta
        self.graphs: set[tuple[str, int, int]] = set()  # kind and shape of those compiled

    def score(self, kind: str, scorer: LogprobScorer, sequences: Sequence[TrainSequence]) -> list[np.ndarray]:
        """Logprobs of every sequence's completion tokens, in order, on all ranks. Args: kind: "reference" or
        "policy".
        """
        mesh, own = scorer.model.mesh, {}
        mine = range(mesh.share, len(sequences), mesh.dims.shares)
        for indices, batch in self._microbatches(
            kind, [sequences[index] for index in mine], self.scoring_shapes, BatchTotals(1, 1, 1)
        ):
            for index, logprobs in zip(indices, scorer.score(batch)):  # nothing before the last stage
                own[mine[index]] = logprobs
        shares = gather_objects(self.mesh.world, own if mesh.reports else {}, dict[int, np.ndarray])
        scored = {index: logprobs for share in shares for index, logprobs in share.items()}
        if is_simulated():  # the ranks that have the others are not there
            scored |= {i: np.zeros(each.completion_length, np.float32) for i, each in enumerate(sequences)}
        return [scored[index] for index in range(len(sequences))]

    def add_reference(self, sequences: Sequence[TrainSequence]) -> list[TrainSequence]:
        """The sequences with the reference's logprobs, where there is a reference."""
        if self.roles.reference is None:
            return list(sequences)
        scored = self.score("reference", self.roles.reference, sequences)
        return [
            replace(sequence, reference_logprobs=logprobs) for sequence, logprobs in zip(sequences, scored, strict=True)
        ]

    def add_policy(self, sequences: Sequence[TrainSequence]) -> list[TrainSequence]:
        """The sequences with the actor's logprobs before the first of several updates; as they are where those are not
        needed.
        """
        if not self.config.keeps_frozen_policy:
            return list(sequences)
        scored = self.score("policy", self.roles.policy, sequences)
        return [
            replace(sequence, frozen_logprobs=logprobs) for sequence, logprobs in zip(sequences, scored, strict=True)
        ]

    def run(self, sequences: Sequence[TrainSequence], rollout_logprobs: Sequence[np.ndarray | None]) -> UpdateCounts:
        """All updates of a step, each in its own residency phases. Returns what this rank has to report.

        Args: rollout_logprobs: the rollout engine's policy logprobs of every sequence, for comparison only; None where
        it reports none at the temperature of the trained policy.
        """
        counts, norms = UpdateCounts(), []
        if self.mesh.is_main:
            for sequence, generated in zip(sequences, rollout_logprobs, strict=True):
                if sequence.frozen_logprobs is not None:
                    counts.compare(sequence.frozen_logprobs, generated, sequence.sampling_logprobs)
        for iteration in range(self.config.rl_config.num_iterations):
            for start in range(0, len(sequences), self.minibatch):
                norms.append(
                    self._update_once(
                        sequences[start : start + self.minibatch],
                        rollout_logprobs[start : start + self.minibatch],
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
            return largest_of(weight.asnumpy() for weight in self.roles.actor.model.parameters_in_order)

    def _update_once(
        self,
        sequences: Sequence[TrainSequence],
        rollout_logprobs: Sequence[np.ndarray | None],
        counts: UpdateCounts,
        is_first: bool,
        compares: bool,
    ) -> float:
        mesh, group = self.roles.actor.mesh, self.config.rl_config.num_generations
        totals = BatchTotals(sum(sequence.num_counted for sequence in sequences), len(sequences), self.max_tokens)
        mine = share_of_update(len(sequences), group, mesh.share, mesh.dims.shares)
        teaching = [index for index in mine if self._teaches(sequences[index])]
        counts.num_skipped, mine = counts.num_skipped + len(mine) - len(teaching), teaching
        batches = self._microbatches("update", [sequences[index] for index in mine], self.shapes, totals)
        counts.num_computed += sum(len(batch.token_ids) for _, batch in batches)
        counts.num_padding += sum(batch.num_padding for _, batch in batches)
        optimizer, residency = self.roles.actor.optimizer, self.roles.residency
        counts.lr = self.schedule.at(optimizer.updates_done)
        seen = [([mine[index] for index in indices], batch) for indices, batch in batches] if is_first else []
        with ExitStack() as watching:
            with residency.phase("update"):
                if is_first:
                    watching.enter_context(self._dump.watching(seen))
                statistics, logprobs = self.roles.actor.accumulate([batch for _, batch in batches])
                if self.mesh.world is not None:
                    self.mesh.world.meet()  # stages end at different times
                if not self.config.actor_config.optimizer.opt_offload:
                    norm = optimizer.step(counts.lr)
            if self.config.actor_config.optimizer.opt_offload:
                norm = optimizer.step(counts.lr, lambda part: residency.phase(phase_of_part("step", part)))
        counts.num_graphs = len(self.graphs)
        if mesh.reports:
            for (indices, _), rows in zip(seen, logprobs, strict=False):
                self.dumps.logprobs(dict(zip(indices, rows, strict=True)))
            if compares:
                for (indices, _), rows in zip(batches, logprobs, strict=True):
                    for index, row in zip(indices, rows, strict=True):
                        place = mine[index]
                        counts.compare(row, rollout_logprobs[place], sequences[place].sampling_logprobs)
            counts.statistics = merged_statistics(counts.statistics, statistics)
            counts.num_tokens += sum(sequences[index].num_counted for index in mine)
        return norm

    def _teaches(self, sequence: TrainSequence) -> bool:
        """Whether its gradient can be other than zero."""
        rl = self.config.rl_config
        has_other_terms = (rl.beta > 0 and not rl.kl_in_reward) or rl.entropy_coeff > 0
        return bool(sequence.mask.any()) and (has_other_terms or bool(sequence.advantages.any()))

    def adapt_kl(self, measured: float) -> None:
        """Sets the KL's coefficient for the next step, where it is adaptive."""
        control = self.config.rl_config.kl_ctrl
        if control.type == "adaptive":
            self.kl_coefficient = adapted_coefficient(
                self.kl_coefficient, measured, control.target, control.horizon, self.config.completions_per_step
            )

    def _microbatches(
        self, kind: str, sequences: Sequence[TrainSequence], shapes: StreamShapes, totals: BatchTotals
    ) -> list[tuple[list[int], MicroBatch]]:
        shares, batches = self.config.rl_config.packing, []
        for indices in pack(sequences, shapes, shares):
            chosen = [sequences[index] for index in indices]
            batch = make_microbatch(chosen, shapes, self.aggregation, totals, shares)
            scale = self.roles.actor.optimizer.loss_scale.value
            batch = replace(batch, kl_coefficient=np.float32(self.kl_coefficient), loss_scale=np.float32(scale))
            batches.append((indices, batch))
        self.graphs |= {(kind, *batch.shape) for _, batch in batches}
        return batches


def share_of_update(count: int, group: int, share: int, shares: int) -> list[int]:
    """Which of an update's `count` sequences are a share's: whole groups in turn or, where a share's are not whole
    groups, as many in a row for each.

    Example: share_of_update(8, 2, 0, 2) == [0, 1, 4, 5]; share_of_update(8, 8, 0, 2) == [0, 1, 2, 3]
    """
    if count % (group * shares) == 0:
        return [index for index in range(count) if index // group % shares == share]
    return list(range(share * count // shares, (share + 1) * count // shares))
