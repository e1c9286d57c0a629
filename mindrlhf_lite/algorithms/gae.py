"""Advantages from a critic's values, a token at a time (GAE, arXiv:1506.02438), in numpy; and the critic's loss.

A token's value is the critic's guess, before the token is written, of all that is still to be paid. In several turns
the tokens that the policy wrote follow each other: what an environment answered between them has no value, and takes no
time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, ops

_EPS = 1e-8


@dataclass(frozen=True)
class ValuedTokens:
    """Of one completion [C].

    Example: ValuedTokens(np.array([0, 0, 1.0]), np.array([0.2, 0.4, 0.9]), np.ones(3))
    """

    rewards: np.ndarray
    values: np.ndarray
    mask: np.ndarray  # 1 on tokens that count


def discounted_advantages(rewards: np.ndarray, values: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """float64 [T]: A_t = d_t + gamma lam A_(t+1), d_t = r_t + gamma V_(t+1) - V_t, and behind the last token V is 0
    (GAE, eq. 16). Args: of tokens that follow each other.
    """
    values = np.asarray(values, np.float64)
    deltas = np.asarray(rewards, np.float64) + gamma * np.append(values[1:], 0.0) - values
    found, later = np.zeros(len(deltas)), 0.0
    for place in reversed(range(len(deltas))):
        found[place] = later = deltas[place] + gamma * lam * later
    return found


def advantages_and_returns(
    completions: Sequence[ValuedTokens], gamma: float, lam: float, whitens: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(advantages, returns that the critic learns) of every completion, float32 [C]; 0 on tokens that do not count.

    Args: whitens: advantages have mean 0 and deviation 1 over all counted tokens of the step.
    """
    advantages, returns = [], []
    for own in completions:
        counted, found = own.mask > 0, np.zeros((2, len(own.mask)))
        found[0, counted] = discounted_advantages(own.rewards[counted], own.values[counted], gamma, lam)
        found[1, counted] = found[0, counted] + own.values[counted]
        advantages.append(found[0])
        returns.append(found[1].astype(np.float32))
    if whitens:
        every = np.concatenate([found[own.mask > 0] for found, own in zip(advantages, completions, strict=True)])
        mean, scale = (every.mean(), np.sqrt(every.var(ddof=1) + _EPS)) if len(every) > 1 else (0.0, 1.0)
        advantages = [
            (found - mean) / scale * (own.mask > 0) for found, own in zip(advantages, completions, strict=True)
        ]
    return [found.astype(np.float32) for found in advantages], returns


def value_loss(values: Tensor, before: Tensor, returns: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """(half the squared error of a token, 1 where the clipped value's is larger), [N]; the larger of the value's error
    and that of the value kept within `clip` of what it was (PPO2's; arXiv:1707.06347's code). Args: clip: 0: not kept.
    """
    if values.shape != returns.shape:
        raise ValueError("value_loss: values and returns differ in shape")
    error = ops.square(values - returns)
    if clip <= 0:
        return 0.5 * error, ops.zeros_like(values)
    kept = ops.square(before + ops.clamp(values - before, -clip, clip) - returns)
    return 0.5 * ops.maximum(error, kept), ops.stop_gradient((kept > error).astype(values.dtype))
