"""From prompts to training sequences: generate, score, advantage. Every function works on this rank's share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mindrlhf_lite.rewards.runner import FAILURES, RewardFunction
from mindrlhf_lite.types import RolloutGroup, ScoredGroup, TrainSequence


def share_of_rank(items: Sequence[int], rank: int, num_ranks: int) -> list[int]:
    """Every `num_ranks`-th item: then an update's first k global prompts are the first k / num_ranks of every rank."""
    return list(items[rank::num_ranks])


def score_groups(
    groups: Sequence[RolloutGroup],
    reward: RewardFunction,
    advantage: Callable[[np.ndarray], np.ndarray],
    leaves_out_failures: bool = False,
) -> list[ScoredGroup]:
    """Verifies all completions and computes advantages within each group.

    Args: leaves_out_failures: a completion on which a verifier failed does not count in its group, and has no
    advantage.
    """
    views = [view for group in groups for view in group.views]
    golds = [group.prompt.gold for group in groups for _ in group.texts]
    scores = reward.score(views, golds)
    rewards, outcomes = reward.rewards(scores), reward.outcomes(scores)
    scored, start = [], 0
    for group in groups:
        end = start + len(group.texts)
        own = {name: values[start:end] for name, values in scores.items()}
        kept = np.array([not (leaves_out_failures and outcome in FAILURES) for outcome in outcomes[start:end]])
        scored.append(
            ScoredGroup(
                group, own, rewards[start:end], outcomes[start:end], advantages_of(rewards[start:end], kept, advantage)
            )
        )
        start = end
    return scored


def advantages_of(rewards: np.ndarray, kept: np.ndarray, advantage: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """float32 [G]: advantages among the kept rewards, 0 for the others; all 0 where fewer than two are left.

    Args: rewards [G]; kept bool [G].
    """
    advantages = np.zeros(len(rewards), np.float32)
    if kept.sum() > 1:
        advantages[kept] = advantage(rewards[kept])
    return advantages


def as_sequences(groups: Sequence[ScoredGroup]) -> list[TrainSequence]:
    """One training sequence a completion, in group order."""
    return [
        TrainSequence(
            np.array(scored.group.prompt.ids + completion.token_ids, np.int32),
            len(scored.group.prompt.ids),
            float(advantage),
            sampling_logprobs=completion.logprobs,
        )
        for scored in groups
        for completion, advantage in zip(scored.group.completions, scored.advantages, strict=True)
    ]
