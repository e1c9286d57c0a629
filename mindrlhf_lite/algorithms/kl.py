"""Estimators of the KL divergence to the reference policy, a token, by name.

With d = log p_policy - log p_reference of a drawn token (Schulman, "Approximating KL Divergence", 2020): k1 = d,
abs = |d|, k2 = d^2 / 2, k3 = exp(-d) + d - 1 (GRPO's, arXiv:2402.03300, eq. 4). As a loss, k1 has a gradient of zero on
average, and k3 that of the forward divergence; multiplied by the policy's ratio (`rl_config.kl_unbiased_gradient`), k1
and k3 have the gradient of the divergence itself, also after several updates (arXiv:2512.21852).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mindspore import Tensor, ops

LARGEST = 10.0  # beyond exp(10) = 22026, k3 goes on as a straight line: its gradient is bounded, and has the right sign


def _estimate(d: Any, estimator: str, absolute: Callable, exp: Callable, relu: Callable) -> Any:
    """Args: d: log p_policy - log p_reference [N]; then the functions of its kind of array."""
    if estimator == "k1":
        return d
    if estimator == "abs":
        return absolute(d)
    if estimator == "k2":
        return 0.5 * d * d
    beyond = relu(-d - LARGEST)
    return exp(-d - beyond) * (1.0 + beyond) + d - 1.0


def kl_of_tokens(policy_logprobs: Tensor, reference_logprobs: Tensor, estimator: str) -> Tensor:
    """[N], of natural logarithms [N]."""
    if policy_logprobs.shape != reference_logprobs.shape:
        raise ValueError("kl_of_tokens: policy and reference logprobs differ in shape")
    return _estimate(policy_logprobs - reference_logprobs, estimator, ops.abs, ops.exp, ops.relu)


def kl_for_reward(policy_logprobs: np.ndarray, reference_logprobs: np.ndarray, estimator: str) -> np.ndarray:
    """The same in numpy, float64 [N], for penalties in the reward."""
    d = np.asarray(policy_logprobs, np.float64) - reference_logprobs
    return _estimate(d, estimator, np.abs, np.exp, lambda x: np.maximum(x, 0.0))


def adapted_coefficient(coefficient: float, measured: float, target: float, horizon: int, samples: int) -> float:
    """The coefficient of the next step: raised while the measured divergence is above its target, by at most a fifth
    of samples / horizon at a time (Ziegler et al., arXiv:1909.08593, sec. 2.2).
    """
    error = min(max(measured / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * samples / horizon)
