"""How alike two orders are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rank_correlation(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Spearman's: 1 for the same order, -1 for the reverse; equals share the mean of their ranks.

    Example: rank_correlation([1.0, 2.0, 3.0], [10.0, 30.0, 20.0]) == 0.5
    """

    def ranks(values: Sequence[float]) -> np.ndarray:
        found = np.asarray(values, np.float64)
        return np.array([(found < value).sum() + ((found == value).sum() - 1) / 2 for value in found])

    return float(np.corrcoef(ranks(ours), ranks(theirs))[0, 1])
