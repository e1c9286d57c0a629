"""Schedules, AdamW, buckets and statistics."""

import numpy as np
import pytest
from helpers import TINY, random_weights
from mindspore import Tensor, ops

from mindrlhf_lite.evaluation.accuracy import Evaluation, compare, pass_at_k, summarise
from mindrlhf_lite.evaluation.intervals import clustered_interval, difference_interval
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.parallel.collectives import plan_buckets
from mindrlhf_lite.shapes.buckets import default_buckets, round_up
from mindrlhf_lite.trainer.learning_rate import LearningRate
from mindrlhf_lite.trainer.update import share_of_update


def test_schedules():
    linear = LearningRate("linear", lr=1.0, min_lr=0.2, warmup_steps=2, decay_steps=6)
    # warm-up 1/2, 1; then from 1 to 0.2 over the 4 updates that are left
    assert [linear.at(step) for step in range(8)] == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    cosine = LearningRate("cosine", 1.0, 0.0, 0, 4)
    assert [cosine.at(step) for step in (0, 1, 2, 4, 9)] == pytest.approx([1.0, 0.8535534, 0.5, 0.0, 0.0])
    assert LearningRate("constant", 0.3, 0.0, 0, 4).at(100) == 0.3


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_adamw_equals_torch(clip):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    model = Decoder(TINY, random_weights(TINY), True, 8)
    weights = model.parameters_in_order
    values = [weight.asnumpy().copy() for weight in weights]
    ours = AdamW(model, AdamWOptions(0.9, 0.95, 1e-6, weight_decay=0.1, max_grad_norm=clip))
    reference = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    matrices, vectors = [p for p in reference if p.ndim == 2], [p for p in reference if p.ndim == 1]
    theirs = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=1e-6,
    )
    for step in range(6):
        gradients = [rng.standard_normal(v.shape).astype(np.float32) * (10 if step == 2 else 1) for v in values]
        for accumulator, parameter, gradient in zip(ours.gradients, reference, gradients, strict=True):
            ops.assign(accumulator, Tensor(gradient))
            parameter.grad = torch.tensor(gradient)
        norm = float(torch.nn.utils.clip_grad_norm_(reference, clip or 1e9))
        for group in theirs.param_groups:
            group["lr"] = 0.01 * (step + 1)
        theirs.step()
        assert ours.step(0.01 * (step + 1)) == pytest.approx(norm, rel=1e-5)
        for weight, parameter in zip(weights, reference, strict=True):
            np.testing.assert_allclose(weight.asnumpy(), parameter.detach().numpy(), atol=2e-6)
        assert not any(accumulator.asnumpy().any() for accumulator in ours.gradients)


def test_a_nan_gradient_stops_before_it_reaches_the_weights():
    model = Decoder(TINY, random_weights(TINY), True, 8)
    before, optimizer = model.weights_as_numpy(), AdamW(model, AdamWOptions())
    ops.assign(optimizer.gradients[1], Tensor(np.full(32, np.nan, np.float32)))
    with pytest.raises(FloatingPointError, match="gradient norm is nan"):
        optimizer.step(0.1)
    for name, values in model.weights_as_numpy().items():
        np.testing.assert_array_equal(values, before[name])


def test_buckets():
    assert default_buckets(50) == (8, 12, 16, 24, 32, 48, 50)
    assert default_buckets(5) == (5,)
    assert [round_up(n, (8, 16)) for n in (1, 8, 9, 16)] == [8, 8, 16, 16]
    with pytest.raises(ValueError, match="raise seq_length"):
        round_up(17, (8, 16))


def test_gradient_buckets_hold_at_most_their_bytes():
    assert plan_buckets([10, 10, 10], 80) == [(0, 2), (2, 3)]
    assert plan_buckets([100, 1, 1], 80) == [(0, 1), (1, 3)]  # a tensor larger than a bucket travels alone
    assert plan_buckets([1, 100], 80) == [(0, 1), (1, 2)]


def test_pass_at_k_by_hand_and_by_enumeration():
    assert pass_at_k(4, 1, 2) == pytest.approx(1 - 3 / 6)  # C(3,2)=3 of C(4,2)=6 pairs miss it
    assert pass_at_k(5, 0, 3) == 0 and pass_at_k(5, 3, 3) == 1 and pass_at_k(5, 2, 1) == pytest.approx(0.4)
    from itertools import combinations

    for n, c, k in ((6, 2, 3), (7, 4, 2)):
        draws = list(combinations(range(n), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(any(i < c for i in draw) for draw in draws) / len(draws))
    with pytest.raises(ValueError):
        pass_at_k(4, 5, 1)


def test_summary_of_several_completions_a_question():
    result = summarise(np.array([[True, False], [True, True], [False, False], [True, True]]), "by_hand")
    assert result.accuracy == 0.625 and result.pass_at == {1: 0.625, 2: 0.75}
    assert (result.low, result.high) == pytest.approx(clustered_interval(np.array([0.5, 1, 0, 1]), 2))
    assert result.as_dict()["verifier"] == "by_hand" and Evaluation.from_dict(result.as_dict()) == result


def test_paired_comparison_golden():
    """McNemar: 5 for, 1 against of 6 discordant: p = 2 * (1 + 6) / 2^6. Differences (5 - 1) / 10 = 0.4; all of one sign
    over 3 questions: 2 of 8 flips are as far.
    """
    first = np.array([0, 0, 0, 0, 0, 1, 1, 1, 0, 0], bool)[:, None]
    second = np.array([1, 1, 1, 1, 1, 0, 1, 1, 0, 0], bool)[:, None]
    result = compare(first, second)
    assert (result.better, result.worse, result.test) == (5, 1, "exact McNemar")
    assert result.p_value == pytest.approx(14 / 64) and result.difference == pytest.approx(0.4)
    assert (result.low, result.high) == pytest.approx(
        difference_interval(first[:, 0].astype(float), second[:, 0].astype(float), 1, 1)
    )
    assert compare(first, first).p_value == 1.0 and compare(second, first).difference == pytest.approx(-0.4)
    several = compare(np.zeros((3, 2), bool), np.array([[1, 0], [1, 0], [0, 1]], bool))
    assert (
        several.test == "paired permutation"
        and several.p_value == pytest.approx(2 / 8)
        and several.difference == pytest.approx(0.5)
    )


@pytest.mark.parametrize(("count", "group", "shares"), [(16, 4, 2), (16, 8, 4), (6, 4, 3), (8, 8, 8), (12, 3, 1)])
def test_an_updates_sequences_are_shared_out_evenly(count, group, shares):
    """Whole groups where that is possible; every sequence once."""
    found = [share_of_update(count, group, share, shares) for share in range(shares)]
    assert sorted(sum(found, [])) == list(range(count)) and {len(own) for own in found} == {count // shares}
    if count % (group * shares) == 0:
        assert all(len({index // group for index in own}) == len(own) // group for own in found)
