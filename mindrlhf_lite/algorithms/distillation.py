"""On-policy distillation: a student learns from what a frozen teacher thinks of the tokens that the student has written
(GKD, arXiv:2306.13649; MiniLLM, arXiv:2306.08543).

With d = log p_student - log p_teacher of a drawn token, the mean of d over the student's draws is the reverse KL, and
the mean of d * grad log p_student its gradient. As a loss, `reverse_kl` has both, of whatever policy the student is by
now. As advantages, -d goes through the policy loss, which clips and corrects it as any. With one update a step both
forms have the same gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindspore import Tensor, ops

from mindrlhf_lite.algorithms.ratios import importance_ratio


@dataclass(frozen=True)
class Distillation:
    """Example: Distillation(1.0, "advantage"); a coefficient of 0 distils nothing."""

    coef: float = 0.0
    applied_as: str = "advantage"  # of DISTILLATION_FORMS


def reverse_kl(logprobs: Tensor, frozen_logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """r sg(d), r the ratio to the student that generated: in the mean over its draws KL(student now | teacher), with
    that divergence's gradient. The gradient of d itself is left out: its mean is 0.

    Args: logprobs [N], gradients flow through it; frozen_logprobs, teacher_logprobs [N]. Returns [N].
    """
    if logprobs.shape != teacher_logprobs.shape:
        raise ValueError("reverse_kl: logprobs of student and teacher differ in shape")
    return importance_ratio(logprobs, frozen_logprobs) * ops.stop_gradient(logprobs - teacher_logprobs)


def distil(tokens: dict, options: Distillation) -> tuple[Tensor, Tensor, Tensor]:
    """(advantages, what is added to a token's loss, its reverse KL), all [N].

    Args: tokens: with `logprobs`, `frozen_logprobs`, `advantages`, and the logprobs of `teacher`, all [N].
    """
    teacher, advantages = tokens["teacher"], tokens["advantages"]
    divergence = reverse_kl(tokens["logprobs"], tokens["frozen_logprobs"], teacher)
    if options.applied_as == "loss":
        return advantages, options.coef * divergence, divergence
    gained = ops.stop_gradient(teacher - tokens["frozen_logprobs"])
    return advantages + options.coef * gained, ops.zeros_like(divergence), divergence
