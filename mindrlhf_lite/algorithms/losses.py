"""Policy losses by name: each makes per-token losses and named statistics of the tokens' named features.

Features, all [N]: `logprobs` (gradients flow through it), `frozen_logprobs` (of the policy before the first of several
updates; on-policy its own), `advantages`, `mask` (1 on counted tokens), `sequences` (int32, number of the token's
sequence), `inverse_lengths` (1 / counted tokens of that sequence). Statistics are 0 or 1 a token; their means over
counted tokens are logged as policy/NAME.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from mindspore import Tensor, ops

from mindrlhf_lite.algorithms.ratios import importance_ratio, sequence_means

TokenLoss = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class NoOptions:
    """Of a loss that cannot be told anything."""


@dataclass(frozen=True)
class ClipOptions:
    """The ratio stays in [1 - epsilon_low, 1 + epsilon_high]."""

    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    dual_clip: float = 0.0  # most that the ratio multiplies a negative advantage by; 0: no limit


@dataclass(frozen=True)
class SapoOptions:
    sapo_temperature_positive: float = 1.0
    sapo_temperature_negative: float = 1.05


@dataclass(frozen=True)
class DppoOptions:
    dppo_divergence: float = 0.2  # how far a token's probability may move


def _flag(condition: Tensor, like: Tensor) -> Tensor:
    return ops.stop_gradient(condition.astype(like.dtype))


def _clipped(ratio: Tensor, advantages: Tensor, options: ClipOptions) -> TokenLoss:
    low, high = 1.0 - options.epsilon_low, 1.0 + options.epsilon_high
    surrogate = ops.minimum(ratio * advantages, ops.clamp(ratio, low, high) * advantages)
    if options.dual_clip > 0:
        surrogate = ops.maximum(surrogate, ops.select(advantages < 0, advantages * options.dual_clip, surrogate))
    return -surrogate, {
        "clip_low": _flag(ops.logical_and(ratio < low, advantages < 0), ratio),
        "clip_high": _flag(ops.logical_and(ratio > high, advantages > 0), ratio),
    }


def ppo(tokens: dict, options: ClipOptions) -> TokenLoss:
    """-min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A), r the token's ratio (PPO, arXiv:1707.06347, eq. 7;
    clip-higher: DAPO, arXiv:2503.14476, eq. 10); with A < 0 at most -dual_clip A (arXiv:1912.09729, eq. 5).
    """
    ratio = importance_ratio(tokens["logprobs"], tokens["frozen_logprobs"])
    return _clipped(ratio, tokens["advantages"], options)


def gspo(tokens: dict, options: ClipOptions) -> TokenLoss:
    """As `ppo`, with the geometric mean of the sequence's ratios in every token's place (GSPO, arXiv:2507.18071;
    its clip ranges are about 3e-4 and 4e-4).
    """
    means = sequence_means(tokens["logprobs"] - tokens["frozen_logprobs"], tokens)
    return _clipped(importance_ratio(means, ops.zeros_like(means)), tokens["advantages"], options)


def gspo_token(tokens: dict, options: ClipOptions) -> TokenLoss:
    """As `gspo` with the ratio sg(s_i) p_t / sg(p_t), so that advantages may differ by token (GSPO, sec. 4.3)."""
    logprobs = tokens["logprobs"]
    means = ops.stop_gradient(sequence_means(logprobs - tokens["frozen_logprobs"], tokens))
    own = importance_ratio(logprobs, ops.stop_gradient(logprobs))
    return _clipped(importance_ratio(means, ops.zeros_like(means)) * own, tokens["advantages"], options)


def cispo(tokens: dict, options: ClipOptions) -> TokenLoss:
    """-sg(clip(r, 1 - epsilon_low, 1 + epsilon_high)) A log p: every token keeps its gradient (arXiv:2506.13585)."""
    ratio = importance_ratio(tokens["logprobs"], tokens["frozen_logprobs"])
    low, high = 1.0 - options.epsilon_low, 1.0 + options.epsilon_high
    weight = ops.stop_gradient(ops.clamp(ratio, low, high))
    statistics = {"clip_low": _flag(ratio < low, ratio), "clip_high": _flag(ratio > high, ratio)}
    return -weight * tokens["advantages"] * tokens["logprobs"], statistics


def sapo(tokens: dict, options: SapoOptions) -> TokenLoss:
    """-(4 / tau) sigmoid(tau (r - 1)) A with tau by the sign of A: a soft gate in the place of the clip (SAPO,
    arXiv:2511.20347).
    """
    ratio, advantages = importance_ratio(tokens["logprobs"], tokens["frozen_logprobs"]), tokens["advantages"]
    high, low = options.sapo_temperature_positive, options.sapo_temperature_negative
    temperature = ops.select(advantages > 0, ops.full_like(ratio, high), ops.full_like(ratio, low))
    return -ops.sigmoid(temperature * (ratio - 1.0)) * 4.0 / temperature * advantages, {}


def gpg(tokens: dict, options: NoOptions) -> TokenLoss:
    """-A log p, without a ratio (GPG, arXiv:2504.02546, without its scaling by the share of groups with a signal)."""
    return -tokens["advantages"] * tokens["logprobs"], {}


def dppo(tokens: dict, options: DppoOptions) -> TokenLoss:
    """-r A, without the tokens whose probability has already moved by more than `dppo_divergence` in the direction in
    which the advantage pushes it (DPPO with binary total variation, arXiv:2602.04879; from the frozen policy).
    """
    logprobs, frozen, advantages = tokens["logprobs"], tokens["frozen_logprobs"], tokens["advantages"]
    moved = ops.stop_gradient(ops.exp(logprobs) - ops.exp(frozen))
    up = ops.logical_and(moved > options.dppo_divergence, advantages > 0)
    down = ops.logical_and(moved < -options.dppo_divergence, advantages < 0)
    left_out = _flag(ops.logical_or(up, down), logprobs)
    return -importance_ratio(logprobs, frozen) * advantages * (1.0 - left_out), {"left_out": left_out}


LOSSES: dict[str, Callable[[dict, Any], TokenLoss]] = {
    each.__name__: each for each in (ppo, gspo, gspo_token, cispo, sapo, gpg, dppo)
}
LOSS_OPTIONS: dict[str, type] = {
    **dict.fromkeys(("ppo", "gspo", "gspo_token", "cispo"), ClipOptions),
    "sapo": SapoOptions,
    "gpg": NoOptions,
    "dppo": DppoOptions,
}


def options_of(loss: str, settings: object) -> Any:
    """The options of a loss, from settings of their names."""
    kind = LOSS_OPTIONS[loss]
    return kind(**{field.name: getattr(settings, field.name) for field in fields(kind)})
