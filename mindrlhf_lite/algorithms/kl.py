"""The k3 estimator of the KL divergence to the reference policy."""

from __future__ import annotations

from mindspore import Tensor, ops

LOG_RATIO_LIMIT = 10.0  # exp(10) = 22026: one stray token cannot swamp the batch, and float32 cannot overflow


def k3_kl(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log p_ref - log p_policy, clamped to [-10, 10]; unbiased and never negative
    (Schulman, "Approximating KL Divergence", 2020; DeepSeekMath, arXiv:2402.03300, eq. 4).

    Args: policy_logprobs, reference_logprobs [N], natural logarithms. Returns [N].
    """
    if policy_logprobs.shape != reference_logprobs.shape:
        raise ValueError("k3_kl: policy and reference logprobs differ in shape")
    log_ratio = ops.clamp(reference_logprobs - policy_logprobs, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return ops.exp(log_ratio) - log_ratio - 1.0
