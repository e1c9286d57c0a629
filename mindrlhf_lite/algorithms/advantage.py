"""Group-relative advantages, in numpy: one group of rewards in, one advantage a completion out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_EPS = 1e-6


def _check(rewards: np.ndarray) -> np.ndarray:
    rewards = np.asarray(rewards, np.float64)
    if rewards.ndim != 1 or len(rewards) < 2:
        raise ValueError(f"rewards have shape {rewards.shape}: a group is one dimension of at least 2 rewards")
    if not np.isfinite(rewards).all():
        raise ValueError(f"rewards {rewards.tolist()} are not all finite")
    return rewards


def grpo_advantage(rewards: np.ndarray) -> np.ndarray:
    """(r - mean) / (std + 1e-6) with the sample standard deviation, ddof=1 (DeepSeekMath, arXiv:2402.03300, sec. 4.1).

    Args: rewards [G]. Returns float32 [G]; exactly zero when all rewards are equal.
    """
    rewards = _check(rewards)
    if has_no_signal(rewards):
        return np.zeros(len(rewards), np.float32)
    return ((rewards - rewards.mean()) / (rewards.std(ddof=1) + _EPS)).astype(np.float32)


def dr_grpo_advantage(rewards: np.ndarray) -> np.ndarray:
    """r - mean, without the division that favours very easy and very hard prompts (Dr. GRPO, arXiv:2503.20783, sec.
    3.2).
    """
    rewards = _check(rewards)
    if has_no_signal(rewards):
        return np.zeros(len(rewards), np.float32)
    return (rewards - rewards.mean()).astype(np.float32)


def rloo_advantage(rewards: np.ndarray) -> np.ndarray:
    """r_i - mean of the other rewards = (r_i - mean) * G / (G - 1) (RLOO, arXiv:2402.14740, eq. 7)."""
    rewards = _check(rewards)
    if has_no_signal(rewards):
        return np.zeros(len(rewards), np.float32)
    return ((rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1)).astype(np.float32)


def has_no_signal(rewards: np.ndarray) -> bool:
    """Whether all rewards of the group are equal: such a group teaches nothing."""
    return bool(np.all(rewards == rewards[0]))


ADVANTAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "grpo": grpo_advantage,
    "dr_grpo": dr_grpo_advantage,
    "rloo": rloo_advantage,
}
