"""Hand-derived values of every advantage, loss, KL estimator, correction and aggregation, in PyNative and in jit, and
the losses' gradients against finite differences in float64.

Three completions of 2, 3 and 4 tokens, and one slot of padding.
"""

import mindspore as ms
import numpy as np
import pytest
from algorithms.three_completions import both_modes
from mindspore import Tensor, mutable

from mindrlhf_lite.algorithms.advantage import ADVANTAGES, GroupRewards
from mindrlhf_lite.algorithms.losses import LOSSES, ClipOptions, options_of
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
