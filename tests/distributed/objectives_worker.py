"""One rank of two: statistics and gradient norm of every objective, under layouts that must not change them.

Arguments: FILE, and which objectives to measure on data ranks, too. Writes, on the first rank, FILE: objective ->
layout -> name -> value.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers import random_weights

from mindrlhf_lite.algorithms.aggregation import BatchTotals, sequence_mean, token_mean
from mindrlhf_lite.algorithms.correction import Correction
from mindrlhf_lite.algorithms.distillation import Distillation
from mindrlhf_lite.algorithms.losses import LOSSES, options_of
from mindrlhf_lite.config.sections.rl import RlConfig
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.policy_loss import Objective, PolicyLoss
from mindrlhf_lite.learner.statistics import merged_statistics
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy, box_reader, buffers_of_rank, fill_buffers
from mindrlhf_lite.parallel.mesh import ALONE, Mesh, gather_objects
from mindrlhf_lite.scoring.batches import make_microbatch, pack
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import TrainSequence

SHAPE = ModelConfig(271, 32, 48, 1, 4, 2, rope_theta=10000.0, max_position_embeddings=64, tie_word_embeddings=True)
GROUP = 3
TEMPERED, TAUGHT = "tempered", "taught"


def objectives():
    """Every loss, each with another correction and another KL, so that all of them occur."""
    corrections = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    divergences = (("k3", True), ("k2", False), ("k1", True), ("abs", False), ("k3", False))
    yield TAUGHT, Objective(policy_is_frozen=True, distillation=Distillation(0.5, "loss"))
    yield TEMPERED, Objective(has_kl=True, entropy_coeff=0.1, policy_is_frozen=True, temperature=0.7)
    for number, name in enumerate(LOSSES):
        dual_clip = 1.1 if name == "ppo" else 0.0
        settings = RlConfig(epsilon_low=0.05, epsilon_high=0.05, dual_clip=dual_clip, dppo_divergence=1e-3)
        estimator, is_unbiased = divergences[number % len(divergences)]
        yield (
            name,
            Objective(
                name,
                options_of(name, settings),
                Correction(corrections[number % len(corrections)], 1.2),
                has_kl=True,
                kl_estimator=estimator,
                kl_has_unbiased_gradient=is_unbiased,
                entropy_coeff=0.1,
                policy_is_frozen=True,
            ),
        )


def sequences():
    """Two groups of three; of one completion the middle does not count, of another nothing does."""
    rng, found = np.random.default_rng(0), []
    for prompt_length, lengths in ((5, (7, 20, 3)), (9, (1, 12, 30))):
        prompt = rng.integers(0, 271, prompt_length)
        for length in lengths:
            ids = np.concatenate([prompt, rng.integers(0, 271, length)]).astype(np.int32)
            near = [(-5.6 + rng.normal(0, 0.2, length)).astype(np.float32) for _ in range(3)]
            named = dict(zip(("frozen_logprobs", "reference_logprobs", "sampling_logprobs"), near, strict=True))
            advantage, teacher = float(rng.normal()), {"teacher": near[1] - np.float32(0.3)}
            found.append(TrainSequence.of(ids, prompt_length, advantage, of_roles=teacher, **named))
    some = np.ones(20, np.float32)
    some[5:9] = 0
    found[1], found[4] = replace(found[1], mask=some), replace(found[4], mask=np.zeros(12, np.float32))
    return found


class Layout:
    """A model under one strategy, whose loss can be exchanged. Args: budget: tokens of a micro-batch."""

    def __init__(self, mesh, role, strategy, budget):
        self.world, self.role, self.shapes = mesh.world, role, StreamShapes(budget, 48, 2)
        weights = random_weights(SHAPE)
        weights["model.embed_tokens.weight"] *= 0.05  # logprobs near -log 271, where `sequences` has the others
        buffers = buffers_of_rank(SHAPE, strategy, mesh.rank if role.dims.size > 1 else 0)
        model = Decoder(SHAPE, fill_buffers(buffers, box_reader(weights)), True, 48, role, strategy)
        self.actor = TrainedModel(model, PolicyLoss(model, Objective()), AdamW(model, AdamWOptions()))

    def measure(self, objective):
        mesh = self.role
        actor = self.actor.with_loss(PolicyLoss(self.actor.model, objective))
        every, aggregation = sequences(), sequence_mean if objective.loss.startswith("gspo") else token_mean
        totals = BatchTotals(sum(each.num_counted for each in every), len(every), 32)
        mine = [each for index, each in enumerate(every) if index // GROUP % mesh.dims.copies == mesh.at.data]
        batches = [
            replace(
                make_microbatch([mine[i] for i in own], self.shapes, aggregation, totals),
                kl_coefficient=np.float32(0.3),
            )
            for own in pack(mine, self.shapes)
        ]
        statistics, _ = actor.accumulate(batches)
        shares = gather_objects(self.world, statistics) if mesh.dims.copies > 1 else [statistics]
        total = {}
        for share in shares:
            total = merged_statistics(total, share)
        return {**total, "grad_norm": float(actor.optimizer.step(0.0)), "micro_batches": len(batches)}


def main():
    """`whole` on the first rank alone; the others in micro-batches."""
    mesh, on_data_ranks = Mesh(), sys.argv[2].split(",")
    layouts = {"whole": Layout(mesh, ALONE, Strategy(ALONE.dims), 96)} if mesh.is_main else {}
    for name, dims in (("tensor", ParallelDims(1, 2, 1)), ("data", ParallelDims(2, 1, 1))):
        layouts[name] = Layout(mesh, mesh.role(dims, SHAPE.num_key_value_heads), Strategy(dims), 64)
    found = {}
    for name, objective in objectives():
        found[name] = {}
        for layout in ("whole", "tensor", *(["data"] if name in on_data_ranks else [])):
            gather_objects(mesh.world, layout)  # this waits for a late rank, a graph's collectives only 30 s
            if layout in layouts:
                found[name][layout] = layouts[layout].measure(objective)
    if mesh.is_main:
        Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
