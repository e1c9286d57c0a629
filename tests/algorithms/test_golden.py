"""Hand-derived values of every advantage, loss, KL estimator, correction and aggregation, in PyNative and in jit, and
the losses' gradients against finite differences in float64.

Three completions of 2, 3 and 4 tokens, and one slot of padding.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, jit, mutable, ops

from mindrlhf_lite.algorithms.advantage import ADVANTAGES, GroupRewards
from mindrlhf_lite.algorithms.aggregation import AGGREGATIONS, BatchTotals
from mindrlhf_lite.algorithms.correction import Correction, correction_weights
from mindrlhf_lite.algorithms.kl import adapted_coefficient, kl_for_reward, kl_of_tokens
from mindrlhf_lite.algorithms.losses import LOSSES, ClipOptions, options_of
from mindrlhf_lite.algorithms.overlong import overlong_punishment
from mindrlhf_lite.algorithms.ratios import importance_ratio
from mindrlhf_lite.config.sections.rl import RlConfig

LENGTHS = (2, 3, 4)
RATIOS = np.array([1.5, 0.5, 1.1, 1.0, 0.7, 2.0, 1.0, 1.0, 0.9, 1.0])  # the last one is padding
ADVANTAGE = np.repeat([1.0, -1.0, 0.5, 0.0], (*LENGTHS, 1))
SETTINGS = RlConfig(epsilon_low=0.2, epsilon_high=0.28, dppo_divergence=0.1)


def features(kind=np.float32, **others):
    """With log p_frozen = -1 everywhere."""
    named = {
        "logprobs": np.log(RATIOS) - 1.0,
        "frozen_logprobs": np.full(10, -1.0),
        "advantages": ADVANTAGE,
        "mask": np.array([1.0] * 9 + [0.0]),
        "inverse_lengths": np.repeat([1 / 2, 1 / 3, 1 / 4, 0.0], (*LENGTHS, 1)),
        **others,
    }
    tensors = {name: Tensor(values.astype(kind)) for name, values in named.items()}
    return {**tensors, "sequences": Tensor(np.repeat([0, 1, 2], (2, 3, 5)).astype(np.int32))}


def both_modes(function, *arguments):
    """What `function` returns of numpy arrays and dictionaries of tensors; equal in PyNative and in a graph."""

    @jit
    def compiled(*tensors):
        return function(*tensors)

    tensors = [mutable(each) if isinstance(each, dict) else Tensor(np.array(each, np.float32)) for each in arguments]
    eager, graph = function(*tensors).asnumpy(), compiled(*tensors).asnumpy()
    np.testing.assert_allclose(eager, graph, rtol=1e-6)
    return graph


# Losses of the nine tokens, by hand from RATIOS, ADVANTAGE and log p = log r - 1.
LOSS_VALUES = {
    # A = 1: -min(r, 1.28), -0.5; A = -1: max(r, 0.8); A = 0.5: -0.5 min(r, 1.28)
    "ppo": [-1.28, -0.5, 1.1, 1.0, 0.8, -0.64, -0.5, -0.5, -0.45],
    # geometric means sqrt(0.75) = 0.8660254, 0.77^(1/3) = 0.9165656 and 1.8^(1/4) = 1.1582920: none is clipped
    "gspo": [-0.8660254] * 2 + [0.9165656] * 3 + [-0.5791460] * 4,
    "gspo_token": [-0.8660254] * 2 + [0.9165656] * 3 + [-0.5791460] * 4,
    # -clip(r, 0.8, 1.28) A (log r - 1): the first is 1.28 * (1 - 0.4054651)
    "cispo": [0.7610047, 1.3545177, -0.9951588, -1.0, -1.0853400, 0.1963858, 0.5, 0.5, 0.4974122],
    # 4 sigmoid(r - 1) -A, with 1.05 in the place of 1 where A < 0: the fourth is 4 / 1.05 * 0.5
    "sapo": [-2.4898373, -1.5101627, 2.0046701, 1.9047619, 1.6072182, -1.4621172, -1.0, -1.0, -0.9500416],
    "gpg": [0.5945349, 1.6931472, -0.9046898, -1.0, -1.3566749, 0.1534264, 0.5, 0.5, 0.5526803],
    # p moves by (r - 1) / e: 0.184 up with A > 0, 0.110 down with A < 0 and 0.368 up with A > 0 are left out
    "dppo": [0.0, -0.5, 1.1, 1.0, 0.0, 0.0, -0.5, -0.5, -0.45],
}


def test_every_loss_has_a_golden_value():
    assert LOSS_VALUES.keys() == LOSSES.keys()


def of_loss(name, options, statistic=None):
    """The loss, or one of its statistics, as a function of the features."""
    loss = LOSSES[name]

    def value(tokens):
        return loss(tokens, options)[0]

    def flag(tokens):
        return loss(tokens, options)[1][statistic]

    return value if statistic is None else flag


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    found = both_modes(of_loss(name, options_of(name, SETTINGS)), features())
    np.testing.assert_allclose(found[:9], LOSS_VALUES[name], atol=1e-6)
    assert np.isfinite(found[9])


@pytest.mark.parametrize(
    ("name", "statistic", "tokens"),
    [
        ("ppo", "clip_low", [4]),
        ("ppo", "clip_high", [0, 5]),
        ("cispo", "clip_low", [1, 4]),
        ("dppo", "left_out", [0, 4, 5]),
    ],
)
def test_statistics_of_losses(name, statistic, tokens):
    found = both_modes(of_loss(name, options_of(name, SETTINGS), statistic), features())
    assert np.flatnonzero(found).tolist() == tokens


def test_dual_clip_bounds_what_a_negative_advantage_costs():
    # r = 5, A = -1: 5 without it, 3 with it; r = 2: 2; A = 1 is not changed
    given = features(
        logprobs=np.log([5.0, 2.0, 5.0, *[1.0] * 7]) - 1.0, advantages=np.array([-1.0, -1.0, 1.0, *[0.0] * 7])
    )
    found = both_modes(of_loss("ppo", ClipOptions(0.2, 0.28, dual_clip=3.0)), given)
    np.testing.assert_allclose(found[:3], [3, 2, -1.28], rtol=1e-6)


def total_of(name):
    """A loss summed over the counted tokens, as a function of (logprobs, the other features)."""
    loss, options = LOSSES[name], options_of(name, SETTINGS)

    def total(logprobs, others):
        tokens = {"logprobs": logprobs}
        for key, values in others.items():
            tokens[key] = values
        return (loss(tokens, options)[0] * tokens["mask"]).sum()

    return total


def gradient_and_others(name):
    others = features(np.float64)
    logprobs = others.pop("logprobs")
    return ms.grad(total_of(name))(logprobs, mutable(others)).asnumpy(), logprobs.asnumpy(), others


HOLD_A_WEIGHT_FIXED = {"cispo", "gspo_token"}  # tested on their own


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - HOLD_A_WEIGHT_FIXED))
def test_gradients_of_losses_are_their_finite_differences(name):
    (found, logprobs, others), total, step = gradient_and_others(name), total_of(name), 1e-6
    for index, shift in enumerate(np.eye(10) * step):
        above, below = (total(Tensor(logprobs + sign * shift), others).asnumpy() for sign in (1, -1))
        assert found[index] == pytest.approx((above - below) / (2 * step), abs=1e-8)


def test_gradients_of_losses_that_hold_a_weight_fixed():
    # cispo: -clip(r, 0.8, 1.28) A; gspo_token: -s_i A for every token
    found = gradient_and_others("cispo")[0][:9]
    np.testing.assert_allclose(found, [-1.28, -0.8, 1.1, 1.0, 0.8, -0.64, -0.5, -0.5, -0.45], atol=1e-12)
    np.testing.assert_allclose(gradient_and_others("gspo_token")[0][:9], LOSS_VALUES["gspo_token"], atol=1e-6)


def groups(*rewards, tokens=None, masks=None):
    tokens = tokens or [[np.zeros(length) for length in LENGTHS[: len(own)]] for own in rewards]
    masks = masks or [[np.ones(len(each)) for each in own] for own in tokens]
    return [GroupRewards(np.array(own), *others) for own, *others in zip(rewards, tokens, masks, strict=True)]


# Of two groups with rewards (3, 0, 0) and (1, 1, 1), a value a completion.
ADVANTAGE_VALUES = {
    "grpo": [2 / np.sqrt(3), -1 / np.sqrt(3), -1 / np.sqrt(3), 0, 0, 0],  # mean 1, sample variance (4 + 1 + 1) / 2
    "dr_grpo": [2, -1, -1, 0, 0, 0],
    "rloo": [3, -1.5, -1.5, 0, 0, 0],  # 3 - 0, 0 - 1.5, 0 - 1.5
    # all six: mean 1, sample variance (4 + 1 + 1 + 0) / 5 = 1.2
    "grpo_batch_std": [2 / np.sqrt(1.2), -1 / np.sqrt(1.2), -1 / np.sqrt(1.2), 0, 0, 0],
    "passk": [3, 0, 0, 0, 0, 0],  # the best leads the second best by 3
    # by token: (2 x 3 + 9 x 1) / 18 = 15 / 18; squares 2 x 9 + 9 = 27: variance (27 - 18 (15 / 18)^2) / 17 = 14.5 / 17
    "reinforce_pp": [(r - 15 / 18) / np.sqrt(14.5 / 17) for r in (3, 0, 0, 1, 1, 1)],
    # by token: 2 x 2, 7 x -1, 9 x 0: mean -3 / 18; squares 8 + 7 = 15: variance (15 - 9 / 18) / 17
    "reinforce_pp_baseline": [(r + 3 / 18) / np.sqrt(14.5 / 17) for r in (2, -1, -1, 0, 0, 0)],
}


def test_every_advantage_has_a_golden_value():
    assert ADVANTAGE_VALUES.keys() == ADVANTAGES.keys()


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages(name):
    found = [tokens for own in ADVANTAGES[name](groups([3.0, 0.0, 0.0], [1.0, 1.0, 1.0])) for tokens in own]
    assert [len(tokens) for tokens in found] == [*LENGTHS, *LENGTHS]
    assert all((tokens == tokens[0]).all() for tokens in found)
    np.testing.assert_allclose([tokens[0] for tokens in found], ADVANTAGE_VALUES[name], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_step_of_equal_rewards_teaches_nothing(name):
    # 0.1 is not exact in binary: its mean may differ from it in the last bit, and dividing by the std would blow that
    # up
    for own in ADVANTAGES[name](groups(np.full(3, 0.1, np.float32), np.full(3, 0.1, np.float32))):
        assert not np.concatenate(own).any()


def test_what_tokens_add_counts_for_totals_and_for_returns():
    # totals 3 - 1 = 2 and 0: Dr. GRPO gives 1 and -1, whatever the token
    added = [[np.array([-0.25, -0.75]), np.zeros(3)]]
    found = ADVANTAGES["dr_grpo"](groups([3.0, 0.0], tokens=added))[0]
    assert [tokens.tolist() for tokens in found] == [[1, 1], [-1, -1, -1]]
    # returns from each token on: 3 - 1, 3 - 0.75, 0, 0, 0; mean 0.85, variance (4 + 5.0625 - 3.6125) / 4
    found = np.concatenate(ADVANTAGES["reinforce_pp"](groups([3.0, 0.0], tokens=added))[0])
    np.testing.assert_allclose(found, (np.array([2, 2.25, 0, 0, 0]) - 0.85) / np.sqrt(1.3625), rtol=1e-5)


def test_whitening_looks_at_counted_tokens_only():
    # rewards 1, 0, 1, 0 by completions of one token, of which the last, a long one, does not count: 1, 0, 1 have mean
    # 2/3 and variance 1/3
    masks = [[np.ones(1)] * 3 + [np.zeros(50)]]
    found = ADVANTAGES["reinforce_pp"](
        groups([1.0, 0.0, 1.0, 0.0], tokens=[[np.zeros(1)] * 3 + [np.zeros(50)]], masks=masks)
    )
    np.testing.assert_allclose(np.concatenate(found[0][:3]), np.array([1, -2, 1]) / np.sqrt(3), rtol=1e-5)


def test_rewards_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        groups([1.0, np.nan])


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
