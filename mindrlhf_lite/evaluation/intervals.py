"""95 % intervals of accuracies: one completion a question, several, and the difference of two models on the same
questions. Pure.

Questions are the independent units. Several completions of one question tell less than as many questions would: how
much less, the spread between questions says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_Z95 = 1.959963984540054
# that much of the spread between questions is what it would be at worst (all or nothing); without it, questions that
# happen to be all alike would make the interval a point
_PSEUDO_QUESTIONS = 2.0


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson, 1927)."""
    return _wilson(correct / total, total, _Z95)


def clustered_interval(shares: np.ndarray, samples: int) -> tuple[float, float]:
    """95 % interval of the mean of questions' shares of right completions.

    Wilson's interval with Student's t (questions - 1 degrees of freedom) for z, and for the count the number of
    independent completions that would vary as much: p (1 - p) / variance of the mean, at least one a question, at most
    all (as Korn and Graubard, 1998, have it for clustered surveys).

    Args:
        shares: float [questions], each a multiple of 1 / samples.
    """
    questions, mean = len(shares), float(shares.mean())
    if questions == 1:
        return 0.0, 1.0
    worst = _away_from_the_ends(mean, questions)
    spread = float(shares.var()) * questions + _PSEUDO_QUESTIONS * worst * (1 - worst)
    variance = spread / (questions - 1 + _PSEUDO_QUESTIONS) / questions
    independent = min(max(mean * (1 - mean) / variance, questions), questions * samples)
    return _wilson(mean, independent, _t95(questions - 1))


def difference_interval(
    first: np.ndarray, second: np.ndarray, first_samples: int, second_samples: int
) -> tuple[float, float]:
    """95 % interval of mean(second) - mean(first), of shares on the same questions: the two intervals, and how the
    shares go together (Newcombe, 1998, method 10; MOVER, Zou and Donner, 2008).

    Args:
        first, second: float [questions], in the same order.
    """
    questions = len(first)
    lows, means, highs = [], [], []
    for shares, samples in ((first, first_samples), (second, second_samples)):
        low, high = clustered_interval(shares, samples)
        lows.append(low)
        means.append(float(shares.mean()))
        highs.append(high)
    together = 0.0
    if first.std() > 0 and second.std() > 0:  # shrunk: of few questions it is hardly known
        together = max(0.0, float(np.corrcoef(first, second)[0, 1])) * max(0.0, 1 - 2 / questions)
    difference = means[1] - means[0]

    def distance(up: float, down: float) -> float:
        return math.sqrt(max(0.0, up * up + down * down - 2 * together * up * down))

    low = difference - distance(means[1] - lows[1], highs[0] - means[0])
    high = difference + distance(highs[1] - means[1], means[0] - lows[0])
    return max(-1.0, low), min(1.0, high)


def mean_interval(values: Sequence[float], questions: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) of one accuracy a seed: Student's t. Of a single one nothing is known: 0 to 1. Args: questions:
    of every evaluation: seeds that happen to agree vary at least as an accuracy on so many does; 0: not known.
    """
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0, 1.0
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    if questions:
        share = _away_from_the_ends(mean, questions)
        variance = max(variance, share * (1 - share) / questions)
    half = _t95(len(values) - 1) * math.sqrt(variance / len(values))
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def _away_from_the_ends(mean: float, questions: int) -> float:
    """A share that is never 0 or 1 (Agresti and Coull, 1998)."""
    return (mean * questions + 2) / (questions + 4)


def _wilson(share: float, count: float, quantile: float) -> tuple[float, float]:
    square = quantile * quantile
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = quantile * math.sqrt(share * (1 - share) / count + square / (4 * count * count)) / (1 + square / count)
    # at the ends the two are equal, but for rounding
    return 0.0 if share == 0 else max(0.0, centre - half), 1.0 if share == 1 else min(1.0, centre + half)


def _t95(degrees: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(0.975, degrees))
