"""Weights that correct a loss for tokens drawn from another distribution than the policy's: filters, temperature, an
engine that rounds otherwise.

Of a token, or of a whole sequence, the ratio policy / sampling distribution is cut off at `cap` (truncated importance
sampling, Ionides 2008; arXiv:2510.11370), or what lies outside [floor, cap] is left out (IcePop, arXiv:2510.18855;
masked importance sampling).
"""

from __future__ import annotations

from dataclasses import dataclass

from mindspore import Tensor, ops

from mindrlhf_lite.algorithms.ratios import importance_ratio, sequence_sums


@dataclass(frozen=True)
class Correction:
    """Example: Correction("token_mask", cap=5.0, floor=0.5); a cap of 0 corrects nothing."""

    kind: str = "token_truncate"
    cap: float = 0.0
    floor: float = 0.0


def correction_weights(policy_logprobs: Tensor, tokens: dict, options: Correction) -> tuple[Tensor, Tensor]:
    """(weights [N], 1 where the ratio was cut off or left out [N]).

    Args: policy_logprobs [N], of the policy that generated; tokens: with `sampling_logprobs`, under what was sampled
    from, `mask` and `sequences`.
    """
    log_ratio = policy_logprobs - tokens["sampling_logprobs"]
    if options.kind in ("sequence_truncate", "sequence_mask"):
        log_ratio = sequence_sums(log_ratio, tokens)
    ratio = importance_ratio(log_ratio, ops.zeros_like(log_ratio))
    outside = (ratio > options.cap).astype(ratio.dtype)
    if options.kind in ("token_truncate", "sequence_truncate"):
        return ops.minimum(ratio, ops.full_like(ratio, options.cap)), outside
    outside = ops.maximum(outside, (ratio < options.floor).astype(ratio.dtype))
    return ratio * (1.0 - outside), outside
