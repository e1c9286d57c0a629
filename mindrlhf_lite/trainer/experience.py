"""From prompts to training sequences: generate, score, advantage. Every function works on this rank's share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mindrlhf_lite.rewards.runner import RewardFunction
from mindrlhf_lite.types import RolloutGroup, ScoredGroup, TrainSequence


def share_of_rank(items: Sequence[int], rank: int, num_ranks: int) -> list[int]:
    """Every `num_ranks`-th item: then an update's first k global prompts are the first k / num_ranks of every rank."""
    return list(items[rank::num_ranks])


def score_groups(groups: Sequence[RolloutGroup], reward: RewardFunction, advantage: Callable[[np.ndarray], np.ndarray]) -> list[ScoredGroup]:
    """Verifies all completions and computes advantages within each group."""
    texts = [text for group in groups for text in group.texts]
    golds = [group.prompt.gold for group in groups for _ in group.texts]
    scores = reward.score(texts, golds)
    rewards, outcomes = reward.rewards(scores), reward.outcomes(scores)
    scored, start = [], 0
    for group in groups:
        end = start + len(group.texts)
        own = {name: values[start:end] for name, values in scores.items()}
        scored.append(ScoredGroup(group, own, rewards[start:end], outcomes[start:end], advantage(rewards[start:end])))
        start = end
    return scored


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
