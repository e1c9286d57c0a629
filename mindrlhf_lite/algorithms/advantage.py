"""Advantages by name: all groups of the step in, an advantage a token out; in numpy.

A group's rewards are what the verifiers gave, with what the KL in the reward took from each token. Most estimators look
at a completion's total only, and give all its tokens the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

_EPS = 1e-6


@dataclass(frozen=True)
class GroupRewards:
    """Of the completions of a prompt."""

    outcomes: np.ndarray  # [G]
    of_tokens: list[np.ndarray]  # of each completion [C]: what its tokens add to the outcome
    masks: list[np.ndarray]  # of each completion [C]: 1 on tokens that count

    def __post_init__(self) -> None:
        if not np.isfinite(self.outcomes).all():
            raise ValueError(f"rewards {np.asarray(self.outcomes).tolist()} are not all finite")

    @property
    def totals(self) -> np.ndarray:
        """float64 [G]"""
        return np.asarray(self.outcomes, np.float64) + [tokens.sum() for tokens in self.of_tokens]


Advantages = list[list[np.ndarray]]  # of each group, of each completion: float32 [C]
Estimator = Callable[[Sequence[GroupRewards]], Advantages]


def _by_totals(of_step: Callable[[list[np.ndarray]], list[np.ndarray]]) -> Estimator:
    """An estimator from one that makes totals [G] of every group to advantages [G]; 0 in groups without signal."""

    def estimator(groups: Sequence[GroupRewards]) -> Advantages:
        totals = [group.totals for group in groups]
        found = [np.zeros_like(own) if has_no_signal(own) else new for own, new in zip(totals, of_step(totals))]
        return [
            [np.full(len(tokens), value, np.float32) for tokens, value in zip(group.of_tokens, own, strict=True)]
            for group, own in zip(groups, found, strict=True)
        ]

    return estimator


def _by_group(of_group: Callable[[np.ndarray], np.ndarray]) -> Estimator:
    return _by_totals(lambda totals: list(map(of_group, totals)))


def has_no_signal(rewards: np.ndarray) -> bool:
    """Whether all rewards of the group are equal: such a group teaches nothing."""
    return bool(np.all(rewards == rewards[0]))


def _batch_std(totals: list[np.ndarray]) -> list[np.ndarray]:
    scale = np.concatenate(totals).std(ddof=1) + _EPS
    return [(own - own.mean()) / scale for own in totals]


def _best_of_group(rewards: np.ndarray) -> np.ndarray:
    """The best one's lead over the second best, nothing for the others."""
    *_, second, best = np.argsort(rewards)
    advantages = np.zeros_like(rewards)
    advantages[best] = rewards[best] - rewards[second]
    return advantages


def _whitened_returns(groups: Sequence[GroupRewards], baseline: Callable[[np.ndarray], float]) -> Advantages:
    """The outcome less its group's baseline, and what a token and those after it add, whitened over counted tokens."""
    values = [
        [
            outcome - baseline(group.outcomes) + tokens[::-1].cumsum()[::-1]
            for outcome, tokens in zip(group.outcomes, group.of_tokens)
        ]
        for group in groups
    ]
    masks = [mask > 0 for group in groups for mask in group.masks]
    counted = np.concatenate([tokens[mask] for tokens, mask in zip(chain(*values), masks, strict=True)])
    if len(counted) < 2 or has_no_signal(counted):
        return [[np.zeros(len(tokens), np.float32) for tokens in own] for own in values]
    mean, scale = counted.mean(), counted.std(ddof=1) + _EPS
    return [[((tokens - mean) / scale).astype(np.float32) for tokens in own] for own in values]


# (r - mean) / (sample std + 1e-6) (DeepSeekMath, arXiv:2402.03300, sec. 4.1)
_grpo = _by_group(lambda rewards: (rewards - rewards.mean()) / (rewards.std(ddof=1) + _EPS))
# r - mean, without the division that favours very easy and very hard prompts (Dr. GRPO, arXiv:2503.20783, sec. 3.2)
_dr_grpo = _by_group(lambda rewards: rewards - rewards.mean())
# r_i - mean of the other rewards (RLOO, arXiv:2402.14740, eq. 7): the leave-one-out baseline
_rloo = _by_group(lambda rewards: (rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1))

ADVANTAGES: dict[str, Estimator] = {
    "grpo": _grpo,
    "dr_grpo": _dr_grpo,
    "rloo": _rloo,
    # the group's mean, but the standard deviation of all completions of the step (arXiv:2508.08221)
    "grpo_batch_std": _by_totals(_batch_std),
    "passk": _by_group(_best_of_group),  # for pass@k (arXiv:2503.19595)
    "reinforce_pp": lambda groups: _whitened_returns(groups, lambda outcomes: 0.0),  # arXiv:2501.03262
    "reinforce_pp_baseline": lambda groups: _whitened_returns(groups, np.mean),  # less the group's mean
}
