"""Likelihood ratios of tokens and of sequences, finite whatever the logprobs are.

Token arrays are [N]: the completion tokens of a micro-batch, those of one sequence next to each other, and padding at
the end.
"""

from __future__ import annotations

from mindspore import Tensor, ops

LOG_RATIO_LIMIT = 20.0  # exp(20) = 4.9e8 stays finite in float32; every clip range is far inside


def importance_ratio(logprobs: Tensor, frozen_logprobs: Tensor) -> Tensor:
    """exp(log p_now - log p_frozen), the log-ratio clamped to [-20, 20].

    Args: logprobs [N], of the weights being trained; frozen_logprobs [N], before the first update. Returns [N].
    """
    if logprobs.shape != frozen_logprobs.shape:
        raise ValueError("importance_ratio: the two logprobs differ in shape")
    return ops.exp(ops.clamp(logprobs - frozen_logprobs, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


def sequence_sums(values: Tensor, tokens: dict) -> Tensor:
    """[N]: the sum over the counted tokens of a token's own sequence. Args: tokens: with `mask` and `sequences`."""
    sums = ops.unsorted_segment_sum(values * tokens["mask"], tokens["sequences"], values.shape[0])
    return ops.gather(sums, tokens["sequences"], 0)


def sequence_means(values: Tensor, tokens: dict) -> Tensor:
    """[N]: the mean over the counted tokens of a token's own sequence. Args: tokens: with `inverse_lengths` too."""
    return sequence_sums(values, tokens) * tokens["inverse_lengths"]
