"""How large a reward may be. Advantages, loss and gradients are float32, and gradients are squared."""

from __future__ import annotations

import numpy as np

LARGEST_REWARD = 1e18  # its square is a float32 (at most 3.4e38) yet


def is_usable(reward: float) -> bool:
    """Whether it is a number of a size that can be trained on; NaN is not."""
    return abs(reward) <= LARGEST_REWARD


def unusable_places(values: np.ndarray) -> np.ndarray:
    """int64: where values [N] or [M, N] hold one that is not, by the last axis."""
    return np.flatnonzero(~(np.abs(np.atleast_2d(values)) <= LARGEST_REWARD).all(0))
