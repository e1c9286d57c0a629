"""Hand-derived values of every KL estimator, correction and aggregation, in PyNative and in jit."""

import mindspore as ms
import numpy as np
import pytest
from algorithms.three_completions import both_modes
from mindspore import Tensor, ops

from mindrlhf_lite.algorithms.aggregation import AGGREGATIONS, BatchTotals
from mindrlhf_lite.algorithms.correction import Correction, correction_weights
from mindrlhf_lite.algorithms.kl import adapted_coefficient, kl_for_reward, kl_of_tokens
from mindrlhf_lite.algorithms.overlong import overlong_punishment
from mindrlhf_lite.algorithms.ratios import importance_ratio


def test_ratio_does_not_overflow():
    ratio = both_modes(importance_ratio, [0.0, -1000.0], [-1000.0, 0.0])
    np.testing.assert_allclose(ratio, [np.exp(20.0), np.exp(-20.0)], rtol=1e-5)


# log p_policy - log p_reference = -0.5, 0.5, 0
KL_VALUES = {
    "k1": [-0.5, 0.5, 0.0],
    "abs": [0.5, 0.5, 0.0],
    "k2": [0.125, 0.125, 0.0],
    "k3": [0.1487213, 0.1065307, 0.0],  # e^0.5 - 0.5 - 1, e^-0.5 + 0.5 - 1
}


@pytest.mark.parametrize("name", [*KL_VALUES, "low_var_kl"])
def test_kl(name):
    policy, reference = [-1.0, -1.0, -2.0], [-0.5, -1.5, -2.0]
    expected = KL_VALUES.get(name, KL_VALUES["k3"])

    def kl(policy_logprobs, reference_logprobs):
        return kl_of_tokens(policy_logprobs, reference_logprobs, name)

    np.testing.assert_allclose(both_modes(kl, policy, reference), expected, atol=1e-6)
    np.testing.assert_allclose(kl_for_reward(np.array(policy), np.array(reference), name), expected, atol=1e-6)


@pytest.mark.parametrize("name", KL_VALUES)
def test_gradients_of_kl_are_their_finite_differences(name):
    policy, reference = np.array([-1.0, -1.0, -2.2, -12.5, -0.1]), np.array([-0.5, -1.5, -2.0, -0.1, -12.5])

    def of_tokens(logprobs):
        return kl_of_tokens(logprobs, Tensor(reference), name)

    def total(logprobs):
        return of_tokens(logprobs).sum()

    above, below = (of_tokens(Tensor(policy + step)).asnumpy() for step in (1e-6, -1e-6))
    np.testing.assert_allclose(ms.grad(total)(Tensor(policy)).asnumpy(), (above - below) / 2e-6, rtol=1e-6, atol=1e-8)


def test_k3_far_away_keeps_its_gradient():
    """Where the reference finds a token far more probable the exponential goes on as a straight line; where the policy
    does, nothing is cut off.
    """
    # d = 12 below: e^10 (1 + 2) - 12 - 1; d = 1000 above: e^-1000 + 1000 - 1
    policy, reference = Tensor([-12.0, 0.0], ms.float32), Tensor([0.0, -1000.0], ms.float32)

    def total(logprobs):
        return kl_of_tokens(logprobs, reference, "k3").sum()

    np.testing.assert_allclose(kl_of_tokens(policy, reference, "k3").asnumpy(), [66066.398, 999.0], rtol=3e-6)
    np.testing.assert_allclose(ms.grad(total)(policy).asnumpy(), [1 - np.exp(10), 1.0], rtol=3e-6)
    np.testing.assert_allclose(
        kl_for_reward(policy.asnumpy(), reference.asnumpy(), "k3"), [66066.398, 999.0], rtol=1e-6
    )


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_kl_times_the_ratio_has_the_gradient_of_the_divergence(name):
    """Over a vocabulary of three: the mean over the drawn token of the gradient equals that of sum p log(p / q)."""
    reference = Tensor(np.log([0.2, 0.5, 0.3]), ms.float64)

    def log_softmax(logits):
        return logits - ops.log(ops.exp(logits).sum())

    def estimated(logits):
        logprobs = log_softmax(logits)
        drawn = ops.stop_gradient(logprobs)
        return (ops.exp(drawn) * importance_ratio(logprobs, drawn) * kl_of_tokens(logprobs, reference, name)).sum()

    def divergence(logits):
        logprobs = log_softmax(logits)
        return (ops.exp(logprobs) * (logprobs - reference)).sum()

    logits = Tensor(np.array([0.3, -0.4, 1.0]))
    np.testing.assert_allclose(ms.grad(estimated)(logits).asnumpy(), ms.grad(divergence)(logits).asnumpy(), atol=1e-12)


def test_the_coefficient_follows_the_measured_kl():
    # at 1.1 times the target: up by 0.1 * 64 / 640; far above it: by no more than 0.2 * 64 / 640
    assert adapted_coefficient(0.5, 0.11, 0.1, 640, 64) == pytest.approx(0.505)
    assert adapted_coefficient(0.5, 9.0, 0.1, 640, 64) == pytest.approx(0.51)
    assert adapted_coefficient(0.5, 0.0, 0.1, 640, 64) == pytest.approx(0.49)


# policy / sampling = 3, 0.4, 1 and 1.2, 1, 1.5 of two sequences, whose products are 1.2 and 1.8
CORRECTION_VALUES = {
    "token_truncate": ([2.0, 0.4, 1.0, 1.2, 1.0, 1.5], [0]),
    "token_mask": ([0.0, 0.0, 1.0, 1.2, 1.0, 1.5], [0, 1]),
    "sequence_truncate": ([1.2] * 3 + [1.8] * 3, []),
    "sequence_mask": ([1.2] * 3 + [1.8] * 3, []),
}


@pytest.mark.parametrize("kind", CORRECTION_VALUES)
@pytest.mark.parametrize("cap", [2.0, 1.5])
def test_corrections(kind, cap):
    given = {
        "sampling_logprobs": Tensor(-np.log([3, 0.4, 1, 1.2, 1, 1.5]).astype(np.float32)),
        "mask": Tensor(np.ones(6, np.float32)),
        "sequences": Tensor(np.array([0, 0, 0, 1, 1, 1], np.int32)),
    }
    options = Correction(kind, cap, 0.5 if kind.endswith("mask") else 0.0)

    def weight(policy, tokens):
        return correction_weights(policy, tokens, options)[0]

    def is_outside(policy, tokens):
        return correction_weights(policy, tokens, options)[1]

    weights, outside = both_modes(weight, np.zeros(6), given), both_modes(is_outside, np.zeros(6), given)
    expected, expected_outside = CORRECTION_VALUES[kind]
    if cap == 1.5 and kind == "token_truncate":
        expected = [1.5, *expected[1:]]
    if cap == 1.5 and kind.startswith("sequence"):
        expected, expected_outside = [1.2] * 3 + [1.5 if kind.endswith("truncate") else 0.0] * 3, [3, 4, 5]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    assert np.flatnonzero(outside).tolist() == expected_outside


def test_aggregation_weights():
    totals = BatchTotals(num_tokens=10, num_sequences=2, max_tokens=16)
    weights = {name: of(4, totals) for name, of in AGGREGATIONS.items()}
    assert weights == {"token_mean": 1 / 10, "sequence_mean": 1 / 8, "sequence_sum": 1 / 2, "constant": 1 / 32}
    # summed over the tokens of both sequences (4 and 6 long) the first two are means: they give 1
    for name in ("token_mean", "sequence_mean"):
        assert 4 * AGGREGATIONS[name](4, totals) + 6 * AGGREGATIONS[name](6, totals) == pytest.approx(1)


def test_overlong_punishment():
    # 20 tokens, the last 8 punished: nothing at 12, half of it at 16, all at 20
    assert [overlong_punishment(length, 20, 8, 0.5) for length in (3, 12, 16, 20)] == [0, 0, -0.25, -0.5]
    assert overlong_punishment(20, 20, 0, 0.5) == 0


def test_shapes_are_checked():
    one, two = Tensor([0.0], ms.float32), Tensor([0.0, 0.0], ms.float32)
    for function in (lambda a, b: kl_of_tokens(a, b, "k3"), importance_ratio):
        with pytest.raises(ValueError, match="shape"):
            function(one, two)
