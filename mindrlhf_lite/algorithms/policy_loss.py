"""The clipped surrogate of GRPO with separate lower and upper clip ranges."""

from __future__ import annotations

from mindspore import Tensor, ops

LOG_RATIO_LIMIT = 20.0  # exp(20) = 4.9e8 stays finite in float32; the clip range is far inside


def importance_ratio(logprobs: Tensor, frozen_logprobs: Tensor) -> Tensor:
    """exp(log p_now - log p_frozen), the log-ratio clamped to [-20, 20].

    Args: logprobs [N], of the weights being trained; frozen_logprobs [N], before the first update. Returns [N].
    """
    if logprobs.shape != frozen_logprobs.shape:
        raise ValueError("importance_ratio: the two logprobs differ in shape")
    return ops.exp(ops.clamp(logprobs - frozen_logprobs, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


def truncated_importance_weight(policy_logprobs: Tensor, sampling_logprobs: Tensor, cap: float) -> Tensor:
    """min(p_policy / p_sampling, cap) a token: what corrects a loss for tokens drawn from another distribution than the
    policy's, with bounded variance (truncated importance sampling, Ionides 2008; for rollouts: arXiv:2510.11370 and the
    TIS of verl).

    Args: policy_logprobs [N], of the policy that generated; sampling_logprobs [N], under what was sampled from
    (filters, temperature). Returns [N].
    """
    return ops.minimum(importance_ratio(policy_logprobs, sampling_logprobs), ops.full_like(policy_logprobs, cap))


def clipped_policy_loss(ratio: Tensor, advantages: Tensor, epsilon_low: float, epsilon_high: float) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - epsilon_low, 1 + epsilon_high) A) a token
    (PPO, arXiv:1707.06347, eq. 7; clip-higher: DAPO, arXiv:2503.14476, eq. 10).

    Args: ratio, advantages [N]. Returns [N].
    """
    if ratio.shape != advantages.shape:
        raise ValueError("clipped_policy_loss: ratio and advantages differ in shape")
    clipped = ops.clamp(ratio, 1.0 - epsilon_low, 1.0 + epsilon_high)
    return -ops.minimum(ratio * advantages, clipped * advantages)
