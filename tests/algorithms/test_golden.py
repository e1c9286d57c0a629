"""Hand-derived values of the pure functions, in PyNative and in jit."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, jit

from mindrlhf_lite.algorithms.advantage import dr_grpo_advantage, grpo_advantage, rloo_advantage
from mindrlhf_lite.algorithms.aggregation import BatchTotals, constant, sequence_mean, token_mean
from mindrlhf_lite.algorithms.kl import k3_kl
from mindrlhf_lite.algorithms.policy_loss import clipped_policy_loss, importance_ratio, truncated_importance_weight


def both_modes(function, *arguments):
    @jit
    def compiled(*tensors):
        return function(*tensors)

    tensors = [Tensor(np.array(a, np.float32)) for a in arguments]
    eager, graph = function(*tensors).asnumpy(), compiled(*tensors).asnumpy()
    np.testing.assert_allclose(eager, graph, rtol=1e-6)
    return graph


def test_grpo_advantage_of_a_mixed_group():
    # mean 0.5; deviations +-0.5; sample variance 4 * 0.25 / 3 = 1/3; 0.5 / sqrt(1/3) = 0.8660254
    np.testing.assert_allclose(
        grpo_advantage(np.array([1.0, 0.0, 0.0, 1.0])), [0.8660254, -0.8660254, -0.8660254, 0.8660254], rtol=1e-5
    )


@pytest.mark.parametrize("advantage", [grpo_advantage, dr_grpo_advantage, rloo_advantage])
def test_a_group_of_equal_rewards_teaches_nothing(advantage):
    # 0.1 is not exact in binary: its mean may differ from it in the last bit, and dividing by the std would blow that
    # up
    assert advantage(np.full(7, 0.1, np.float32)).tolist() == [0.0] * 7


def test_dr_grpo_and_rloo_advantages():
    rewards = np.array([3.0, 0.0, 0.0])  # mean 1
    np.testing.assert_allclose(dr_grpo_advantage(rewards), [2.0, -1.0, -1.0])
    # leave one out: 3 - 0, 0 - 1.5, 0 - 1.5
    np.testing.assert_allclose(rloo_advantage(rewards), [3.0, -1.5, -1.5])


def test_advantages_refuse_groups_they_cannot_compare():
    with pytest.raises(ValueError, match="at least 2"):
        grpo_advantage(np.array([1.0]))
    with pytest.raises(ValueError, match="finite"):
        grpo_advantage(np.array([1.0, np.nan]))


def test_ratio_and_clipped_loss():
    # ratios e^0.5 = 1.6487, e^-0.5 = 0.6065, 1
    ratio = both_modes(importance_ratio, [-1.0, -2.0, -3.0, -1.0], [-1.5, -1.5, -3.0, -1.5])
    np.testing.assert_allclose(ratio, [1.6487213, 0.60653066, 1.0, 1.6487213], rtol=1e-6)

    def loss(ratio, advantages):
        return clipped_policy_loss(ratio, advantages, 0.2, 0.28)

    # A=2: min(3.297, 1.28*2=2.56) -> -2.56.  A=-1, ratio .6065: min(-.6065, -0.8) -> +0.8.  A=1: -1.  A=-1, ratio
    # 1.6487: min(-1.6487, -1.28) -> 1.6487
    np.testing.assert_allclose(
        both_modes(loss, ratio, [2.0, -1.0, 1.0, -1.0]), [-2.56, 0.8, -1.0, 1.6487213], rtol=1e-6
    )


def test_truncated_importance_weight():
    # policy / sampling: e^(-1 + 2) = 2.718 -> 2; e^(-2 + 1) = 0.3679; 1; e^1000 -> 2
    def weight(policy, sampling):
        return truncated_importance_weight(policy, sampling, 2.0)

    np.testing.assert_allclose(
        both_modes(weight, [-1.0, -2.0, -3.0, 0.0], [-2.0, -1.0, -3.0, -1000.0]), [2.0, 0.36787944, 1.0, 2.0], rtol=1e-5
    )


def test_ratio_does_not_overflow():
    ratio = both_modes(importance_ratio, [0.0, -1000.0], [-1000.0, 0.0])
    np.testing.assert_allclose(ratio, [np.exp(20.0), np.exp(-20.0)], rtol=1e-5)


def test_k3_kl():
    # d = ref - policy = 0.5: e^0.5 - 0.5 - 1 = 0.1487213; d = -0.5: e^-0.5 + 0.5 - 1 = 0.1065307; d = 0: 0
    np.testing.assert_allclose(
        both_modes(k3_kl, [-1.0, -1.0, -2.0], [-0.5, -1.5, -2.0]), [0.14872127, 0.10653066, 0.0], rtol=1e-5
    )


def test_k3_kl_clamps_the_log_ratio():
    # d = 1000 is clamped to 10: e^10 - 11 = 22015.466; d = -1000 to -10: e^-10 + 9
    np.testing.assert_allclose(both_modes(k3_kl, [-1000.0, 0.0], [0.0, -1000.0]), [22015.466, 9.0000454], rtol=1e-5)


def test_aggregation_weights():
    totals = BatchTotals(num_tokens=10, num_sequences=2, max_tokens=16)
    assert token_mean(4, totals) == 1 / 10
    assert sequence_mean(4, totals) == 1 / 8
    assert constant(4, totals) == 1 / 32
    # summed over the tokens of both sequences (4 and 6 long) the first two are means: they give 1
    assert 4 * token_mean(4, totals) + 6 * token_mean(6, totals) == pytest.approx(1)
    assert 4 * sequence_mean(4, totals) + 6 * sequence_mean(6, totals) == pytest.approx(1)


def test_shapes_are_checked():
    one, two = Tensor([0.0], ms.float32), Tensor([0.0, 0.0], ms.float32)
    for function in (
        k3_kl,
        importance_ratio,
        lambda a, b: clipped_policy_loss(a, b, 0.2, 0.2),
        lambda a, b: truncated_importance_weight(a, b, 2.0),
    ):
        with pytest.raises(ValueError, match="shape"):
            function(one, two)
