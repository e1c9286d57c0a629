"""Intervals of accuracies: values by hand, and how often they hold what is true, by simulation."""

import numpy as np
import pytest
from scipy import stats

from mindrlhf_lite.evaluation.accuracy import compare, summarise
from mindrlhf_lite.evaluation.intervals import clustered_interval, difference_interval, mean_interval, wilson_interval


def test_wilson():
    # 8 of 10 (e.g. Brown, Cai and DasGupta 2001): 0.4902 to 0.9433
    assert wilson_interval(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson_interval(0, 10)[0] == pytest.approx(0) and wilson_interval(10, 10)[1] == pytest.approx(1)


def test_clustered_by_hand():
    """Shares 1, 1, 0.5, 0.5, 1, 0 of 2 completions: mean 2/3, squares about it 5/6. Worst case: p = 6/10, 2 * 0.24. So
    the variance of the mean is (5/6 + 0.48) / 7 / 6, of 2/9 / that = 7.107 independent completions; t of 5 is 2.570582.
    """
    count = (2 / 9) / ((5 / 6 + 0.48) / 7 / 6)
    assert 6 < count < 12
    square = 2.570582**2 / count
    centre, half = (2 / 3 + square / 2) / (1 + square), np.sqrt(square * (2 / 9) + square**2 / 4) / (1 + square)
    found = clustered_interval(np.array([1, 1, 0.5, 0.5, 1, 0]), 2)
    assert found == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_nothing_collapses():
    """All right is no certainty: at most what as many questions of one completion say, with t for z."""
    low, high = clustered_interval(np.ones(20), 8)
    assert high == 1.0 and low == pytest.approx(1 / (1 + stats.t.ppf(0.975, 19) ** 2 / 20))
    assert clustered_interval(np.ones(1), 8) == (0.0, 1.0)
    result = compare(np.zeros((5, 1), bool), np.ones((5, 1), bool))  # 5 of 5 better, p = 2 / 2^5
    assert result.p_value == pytest.approx(0.0625) and result.low < 0.15 and result.high == 1.0
    equal = compare(np.ones((10, 4), bool), np.ones((10, 4), bool))
    assert equal.low < -0.2 and equal.high > 0.2 and equal.difference == 0


def of_questions(rng, kind, count):
    """Chances of being answered right, of `count` questions; and their mean."""
    if kind == "alike":
        return np.full(count, 0.9), 0.9
    if kind == "all or nothing":
        return (rng.random(count) < 0.9).astype(float), 0.9
    if kind == "some are hard":
        return np.where(rng.random(count) < 0.1, 0.1, 0.98), 0.892
    a, b = {"easy": (8, 1), "spread": (0.5, 0.5), "middling": (5, 5)}[kind]
    return rng.beta(a, b, count), a / (a + b)


KINDS = ("alike", "all or nothing", "some are hard", "easy", "spread", "middling")
RUNS = 600


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("questions", "samples"), [(10, 4), (20, 8), (60, 2)])
def test_coverage(kind, questions, samples):
    """95 % of intervals hold the truth, less three standard errors of 600 runs (0.9 % each) and a point."""
    rng, held = np.random.default_rng(questions), 0
    for _ in range(RUNS):
        chances, truth = of_questions(rng, kind, questions)
        low, high = clustered_interval(rng.binomial(samples, chances) / samples, samples)
        held += low - 1e-9 <= truth <= high + 1e-9
    assert held / RUNS > 0.95 - 0.027 - 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("questions", "samples"), [(10, 1), (50, 1), (20, 4)])
def test_coverage_of_differences(kind, questions, samples):
    """The second model answers three tenths of what the first one fails."""
    rng, held = np.random.default_rng(questions), 0
    for _ in range(RUNS):
        chances, truth = of_questions(rng, kind, questions)
        first, second = (rng.binomial(samples, p) / samples for p in (chances, chances + 0.3 * (1 - chances)))
        low, high = difference_interval(first, second, samples, samples)
        held += low - 1e-9 <= 0.3 * (1 - truth) <= high + 1e-9
    assert held / RUNS > 0.95 - 0.027 - 0.01


def test_the_normal_approximation_was_too_narrow():
    """What stood here before held the truth in less than nine of ten runs."""
    rng, held, new = np.random.default_rng(0), 0, 0
    for _ in range(RUNS):
        chances, truth = of_questions(rng, "some are hard", 20)
        right = rng.random((20, 8)) < chances[:, None]
        shares = right.mean(1)
        half = 1.96 * shares.std(ddof=1) / np.sqrt(20)
        held += abs(shares.mean() - truth) <= half
        result = summarise(right)
        new += result.low <= truth <= result.high
    assert held / RUNS < 0.9 < new / RUNS


def test_mean_over_seeds_by_hand():
    """0.6, 0.7, 0.8: deviation 0.1, t of 2 is 4.302653."""
    half = 4.302653 * 0.1 / np.sqrt(3)
    assert mean_interval([0.6, 0.7, 0.8]) == pytest.approx((0.7, 0.7 - half, 0.7 + half), abs=1e-6)
    assert mean_interval([0.9]) == (0.9, 0.0, 1.0)
    assert mean_interval([0.7] * 3) == pytest.approx((0.7, 0.7, 0.7))
    mean, low, high = mean_interval([0.7] * 3, 200)  # seeds that agree by chance: at least as an accuracy on 200 varies
    assert mean == pytest.approx(0.7) and 0.61 < low < 0.63 and 0.77 < high < 0.79
    assert wilson_interval(0, 200)[0] == 0.0 and wilson_interval(200, 200)[1] == 1.0
