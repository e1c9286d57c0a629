"""GAE against the double sum in float64, over turns; whitening and the value loss against torch's numbers."""

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from algorithms.three_completions import both_modes
from mindspore import Tensor

from mindrlhf_lite.algorithms.gae import ValuedTokens, advantages_and_returns, discounted_advantages, value_loss

FIXTURE = json.loads((Path(__file__).parents[1] / "peers/torch_values.json").read_text())
NUMBERS = {name: np.array(values) for name, values in FIXTURE["numbers"].items()}


def test_by_hand():
    """gamma 0.5, lam 0.5: d = [0 + 0.5 * 0.4 - 0.2, 1 - 0.4] = [0, 0.6]; A = [0 + 0.25 * 0.6, 0.6]"""
    found = discounted_advantages(np.array([0.0, 1.0]), np.array([0.2, 0.4]), 0.5, 0.5)
    np.testing.assert_allclose(found, [0.15, 0.6], rtol=1e-15)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (0.99, 0.0)])
def test_the_sum_of_discounted_errors(gamma, lam):
    rng = np.random.default_rng(0)
    rewards, values = rng.standard_normal(40), rng.standard_normal(40).astype(np.float32)
    wide = [float(value) for value in values] + [0.0]
    errors = [rewards[t] + gamma * wide[t + 1] - wide[t] for t in range(40)]
    expected = [sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, 40)) for t in range(40)]
    np.testing.assert_allclose(discounted_advantages(rewards, values, gamma, lam), expected, rtol=1e-12, atol=1e-12)
    if lam == 1.0 == gamma:  # all that is still paid, less the value
        np.testing.assert_allclose(expected, rewards[::-1].cumsum()[::-1] - values, atol=1e-12)


def test_tokens_that_were_not_written_take_no_time():
    """Two turns with an answer of three tokens between them: as if the turns followed each other."""
    rng = np.random.default_rng(1)
    mask = np.array([1, 1, 0, 0, 0, 1, 1, 1], np.float32)
    rewards, values = rng.standard_normal((2, 8)).astype(np.float32)
    (found,), (returns,) = advantages_and_returns([ValuedTokens(rewards, values, mask)], 0.9, 0.8, False)
    written = mask > 0
    expected = discounted_advantages(rewards[written], values[written], 0.9, 0.8)
    np.testing.assert_allclose(found[written], expected, rtol=1e-6)
    np.testing.assert_allclose(returns[written], expected + values[written], rtol=1e-6)
    assert not found[~written].any() and not returns[~written].any()


def test_whitening_is_that_of_torch():
    """lam 0 and gamma 0 leave reward less value: here the fixture's numbers, with a value of 0."""
    rows = zip(NUMBERS["returns"], NUMBERS["mask"], strict=True)
    completions = [ValuedTokens(rewards, np.zeros(len(mask)), mask) for rewards, mask in rows]
    found, returns = advantages_and_returns(completions, 0.0, 0.0, True)
    np.testing.assert_allclose(found, FIXTURE["whitened"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(returns, NUMBERS["returns"] * NUMBERS["mask"], rtol=1e-6)
    alone, _ = advantages_and_returns([ValuedTokens(np.ones(1), np.zeros(1), np.ones(1))], 1.0, 1.0, True)
    assert alone[0].tolist() == [1.0]


@pytest.mark.parametrize("clip", [0.2, 1.0])
def test_value_loss_and_gradient_are_those_of_torch(clip):
    mask, expected = NUMBERS["mask"] > 0, FIXTURE["results"][str(clip)]
    values, before, returns = (Tensor(NUMBERS[name][mask]) for name in ("values", "before", "returns"))
    assert float(value_loss(values, before, returns, clip)[0].mean()) == pytest.approx(expected["loss"], rel=1e-6)
    assert float(value_loss(values, before, returns, clip)[1].mean()) == pytest.approx(expected["clipped"], rel=1e-6)

    def mean(own):
        return value_loss(own, before, returns, clip)[0].mean()

    gradient = ms.grad(mean)(values).asnumpy()
    np.testing.assert_allclose(gradient, np.array(expected["gradient"])[mask], rtol=1e-6, atol=1e-9)


def test_value_loss_by_hand():
    """Value 1.5 kept within 0.2 of 1: 1.2; of a return of 2 that error is larger, of a return of 1 it is not."""
    given = ([1.5, 1.5, 1.1], [1.0, 1.0, 1.0], [2.0, 1.0, 1.1])

    def loss(values, before, returns):
        return value_loss(values, before, returns, 0.2)[0]

    def is_clipped(values, before, returns):
        return value_loss(values, before, returns, 0.2)[1]

    def free(values, before, returns):
        return value_loss(values, before, returns, 0.0)[0]

    np.testing.assert_allclose(both_modes(loss, *given), [0.32, 0.125, 0.0], atol=1e-7)
    np.testing.assert_allclose(both_modes(is_clipped, *given), [1.0, 0.0, 0.0])
    np.testing.assert_allclose(both_modes(free, *given), [0.125, 0.125, 0.0], atol=1e-7)
