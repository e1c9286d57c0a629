"""Losses of pairs of a chosen and a rejected answer to one prompt. Pure: [P] vectors in, [P] vectors out.

A pair's numbers come by name: chosen and rejected, the policy's logprobs of the two, summed over their tokens;
reference_chosen and reference_rejected, those of the model that training started from; chosen_tokens and
rejected_tokens, how many were summed; divergence, of the policy to the reference, a number of the whole batch (kto).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mindspore import Tensor, ops

Pairs = dict[str, Tensor]
PairLoss = tuple[Tensor, Tensor, Tensor]  # losses; rewards of the chosen, and of the rejected answers


@dataclass(frozen=True)
class PreferenceOptions:
    """As `preference_config` has them."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    simpo_margin: float = 0.5
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


def log_sigmoid(x: Tensor) -> Tensor:
    """log(1 / (1 + exp(-x))), finite for every x; its gradient, sigmoid(-x), is right at 0 too, where a pair starts."""
    value = ops.minimum(x, ops.zeros_like(x)) - ops.log1p(ops.exp(-ops.abs(x)))
    return ops.stop_gradient(value) + (x - ops.stop_gradient(x)) * ops.stop_gradient(ops.sigmoid(-x))


def _smoothed(logits: Tensor, label_smoothing: float) -> Tensor:
    loss = -log_sigmoid(logits) * (1.0 - label_smoothing)
    return loss if label_smoothing == 0.0 else loss - log_sigmoid(-logits) * label_smoothing


def _log_ratios(pairs: Pairs) -> tuple[Tensor, Tensor]:
    return pairs["chosen"] - pairs["reference_chosen"], pairs["rejected"] - pairs["reference_rejected"]


def dpo(pairs: Pairs, options: PreferenceOptions) -> PairLoss:
    """-log sigmoid(beta (log r_chosen - log r_rejected)), r the ratio to the reference (arXiv:2305.18290, eq. 7); with
    label smoothing as its sec. 3 of the authors' later note has it (cDPO).
    """
    chosen, rejected = _log_ratios(pairs)
    chosen, rejected = options.beta * chosen, options.beta * rejected
    return _smoothed(chosen - rejected, options.label_smoothing), chosen, rejected


def ipo(pairs: Pairs, options: PreferenceOptions) -> PairLoss:
    """(h - 1 / (2 beta))^2, h the difference of log ratios a token (arXiv:2310.12036, eq. 17, by means as its authors
    did it).
    """
    chosen, rejected = _log_ratios(pairs)
    means = chosen / pairs["chosen_tokens"] - rejected / pairs["rejected_tokens"]
    off = means - 1.0 / (2.0 * options.beta)
    return off * off, options.beta * chosen, options.beta * rejected


def simpo(pairs: Pairs, options: PreferenceOptions) -> PairLoss:
    """-log sigmoid(beta (mean log p_chosen - mean log p_rejected) - gamma), without a reference (arXiv:2405.14734,
    eq. 6).
    """
    chosen = options.beta * pairs["chosen"] / pairs["chosen_tokens"]
    rejected = options.beta * pairs["rejected"] / pairs["rejected_tokens"]
    return _smoothed(chosen - rejected - options.simpo_margin, options.label_smoothing), chosen, rejected


def kto(pairs: Pairs, options: PreferenceOptions) -> PairLoss:
    """w (1 - sigmoid(beta (log r - z))) of a chosen answer, w (1 - sigmoid(beta (z - log r))) of a rejected one, z the
    divergence (arXiv:2402.01306, eq. 8). A pair's loss is the mean of its two.
    """
    chosen, rejected = _log_ratios(pairs)
    chosen, rejected, middle = options.beta * chosen, options.beta * rejected, options.beta * pairs["divergence"]
    good = options.desirable_weight * ops.sigmoid(middle - chosen)
    bad = options.undesirable_weight * ops.sigmoid(rejected - middle)
    return 0.5 * (good + bad), chosen, rejected


PREFERENCES: dict[str, Callable[[Pairs, PreferenceOptions], PairLoss]] = {
    each.__name__: each for each in (dpo, ipo, simpo, kto)
}


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor, center: float) -> Tensor:
    """-log sigmoid(chosen - rejected - margin) of a pair's scores, and center (chosen + rejected)^2, which keeps scores
    near 0 (arXiv:2312.09244).
    """
    loss = -log_sigmoid(chosen - rejected - margin)
    return loss if center == 0.0 else loss + center * (chosen + rejected) * (chosen + rejected)
