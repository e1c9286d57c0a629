"""The whole GRPO loss of a batch, and its gradient, against an implementation in numpy that shares no code with it.

numpy takes the hidden states as given and computes logits, logprobs, loss and the gradient of the output matrix by the
textbook formulas, in float64, one sequence and one token at a time.
"""

from dataclasses import replace

import numpy as np
import pytest
from helpers import TINY, random_weights
from mindspore import Tensor

from mindrlhf_lite.algorithms.aggregation import BatchTotals, sequence_mean, token_mean
from mindrlhf_lite.algorithms.correction import Correction
from mindrlhf_lite.algorithms.losses import ClipOptions
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.policy_loss import Objective, PolicyLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import TrainSequence

EPS_LOW, EPS_HIGH, BETA, EOS = 0.2, 0.28, 0.3, 5  # EOS is also what a careless implementation would pad with
SHAPES = StreamShapes(96, 16)


def numpy_grpo(sequences, hidden, head, per_sequence, is_cap=0.0, entropy_coeff=0.0):
    """(loss, d loss / d head) from hidden states [rows, T, H]."""
    loss, gradient = 0.0, np.zeros_like(head, np.float64)
    tokens = sum(len(s.token_ids) - s.prompt_length for s in sequences)
    for row, s in enumerate(sequences):
        length = len(s.token_ids) - s.prompt_length
        weight = 1 / (length * len(sequences)) if per_sequence else 1 / tokens
        for t in range(length):
            h = hidden[row, s.prompt_length - 1 + t].astype(np.float64)
            logits = head.astype(np.float64) @ h
            p = np.exp(logits - logits.max())
            p /= p.sum()
            label = s.token_ids[s.prompt_length + t]
            logp = np.log(p[label])
            ratio = np.exp(np.clip(logp - s.frozen_logprobs[t], -20, 20))
            clipped = np.clip(ratio, 1 - EPS_LOW, 1 + EPS_HIGH)
            surrogate = min(ratio * s.advantages[t], clipped * s.advantages[t])
            # the correction is of the policy that generated: a constant
            correction = (
                min(np.exp(np.clip(s.frozen_logprobs[t] - s.sampling_logprobs[t], -20, 20)), is_cap) if is_cap else 1.0
            )
            d = s.reference_logprobs[t] - logp
            kl = np.exp(d) - d - 1 if d < 10 else np.exp(10) * (d - 9) - d - 1
            entropy = -(p * np.log(p + 1e-300)).sum()
            loss += weight * (-correction * surrogate + BETA * kl - entropy_coeff * entropy)
            # gradient with respect to logp: of the surrogate where it is not clipped away, and of the KL, whose
            # exponential goes on as a straight line
            is_inside = abs(logp - s.frozen_logprobs[t]) < 20
            is_free = ratio * s.advantages[t] <= clipped * s.advantages[t] and is_inside
            d_logp = -correction * ratio * s.advantages[t] if is_free else 0.0
            d_logp += BETA * (1 - np.exp(min(d, 10)))
            onehot = np.zeros_like(p)
            onehot[label] = 1
            d_logits = d_logp * (onehot - p) + entropy_coeff * p * (np.log(p + 1e-300) + entropy)
            gradient += weight * np.outer(d_logits, h)
    return loss, gradient


def cases():
    rng = np.random.default_rng(3)

    def sequence(prompt, completion, advantage, drift=0.3):
        ids = np.concatenate([rng.integers(6, 97, prompt), completion]).astype(np.int32)
        return ids, prompt, advantage, drift

    return [
        sequence(4, rng.integers(6, 97, 7), 1.2),
        sequence(3, [EOS], -0.7),  # one token: the stop token itself, which must be trained
        sequence(5, [9, EOS, 11, EOS, EOS], 0.9),  # pad id == EOS id, inside and at the end
        sequence(2, rng.integers(6, 97, 12), -1.1),  # truncated at max_tokens: no EOS
        sequence(4, rng.integers(6, 97, 3), 0.0),  # a group of equal rewards
        sequence(1, rng.integers(6, 97, 4), 0.5, drift=2000.0),  # log-ratios overflow without clamps
    ]


@pytest.fixture(scope="module")
def setup():
    weights = random_weights(TINY)
    model = Decoder(TINY, weights, trainable=True, max_length=16)
    rng = np.random.default_rng(5)
    sequences = []
    for ids, prompt, advantage, drift in cases():
        count = len(ids) - prompt
        logits = model(Tensor(ids[None])).asnumpy()[0].astype(np.float64)
        now = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[
            np.arange(prompt - 1, len(ids) - 1), ids[prompt:]
        ]
        signs = rng.choice([-1.0, 1.0], count)
        policy = (now + (signs * drift if drift > 10 else rng.normal(0, drift, count))).astype(np.float32)
        reference = (now + (-signs * drift if drift > 10 else rng.normal(0, 0.5, count))).astype(np.float32)
        sampling = (policy + rng.normal(0, 0.7, count)).astype(
            np.float32
        )  # filters make kept tokens more probable, and masks none
        sequences.append(
            TrainSequence.of(
                ids,
                prompt,
                advantage,
                reference_logprobs=reference,
                frozen_logprobs=policy,
                sampling_logprobs=sampling,
            )
        )
    return model, sequences


@pytest.mark.parametrize("per_sequence", [False, True])
@pytest.mark.parametrize(("rows", "is_cap", "entropy_coeff"), [(6, 0.0, 0.2), (4, 1.5, 0.0), (1, 0.0, 0.0)])
def test_loss_and_gradient(setup, per_sequence, rows, is_cap, entropy_coeff):
    model, sequences = setup
    padded = np.zeros((len(sequences), 16), np.int32)
    for row, s in enumerate(sequences):
        padded[row, : len(s.token_ids)] = s.token_ids
    hidden = model.hidden(Tensor(padded)).asnumpy().reshape(len(sequences), 16, -1)
    expected_loss, expected_gradient = numpy_grpo(
        sequences, hidden, model.head.asnumpy(), per_sequence, is_cap, entropy_coeff
    )

    objective = Objective(
        options=ClipOptions(EPS_LOW, EPS_HIGH),
        correction=Correction(cap=is_cap),
        has_kl=True,
        entropy_coeff=entropy_coeff,
        policy_is_frozen=True,
    )
    actor = TrainedModel(model, PolicyLoss(model, objective), AdamW(model, AdamWOptions()))
    totals = BatchTotals(sum(s.completion_length for s in sequences), len(sequences), 12)
    aggregation = sequence_mean if per_sequence else token_mean
    batches = [
        replace(
            make_microbatch(sequences[start : start + rows], SHAPES, aggregation, totals),
            kl_coefficient=np.float32(BETA),
        )
        for start in range(0, len(sequences), rows)
    ]
    statistics, _ = actor.accumulate(batches)
    gradient = next(g for g in actor.optimizer.gradients if g.name == "gradient.lm_head.weight").asnumpy()
    assert statistics["loss"] == pytest.approx(expected_loss, rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-3, atol=2e-5 * np.abs(expected_gradient).max())


def test_on_policy_batches_use_ratio_one(setup):
    """With one update a batch no policy logprobs are needed: the loss is minus the mean advantage, the gradient that of
    the logprob.
    """
    model, sequences = setup
    actor = TrainedModel(
        model, PolicyLoss(model, Objective(options=ClipOptions(EPS_LOW, EPS_HIGH))), AdamW(model, AdamWOptions())
    )
    totals = BatchTotals(sum(s.completion_length for s in sequences), len(sequences), 12)
    statistics, _ = actor.accumulate([make_microbatch(sequences, SHAPES, token_mean, totals)])
    mean_advantage = sum(s.advantages.sum() for s in sequences) / totals.num_tokens
    assert statistics["loss"] == pytest.approx(-mean_advantage, rel=1e-5)
    assert statistics["ratio_max"] == 1.0
