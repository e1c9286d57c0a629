"""Scores of completions by a pool of verifiers."""

from mindrlhf_lite.rewards.reward_function import RewardFunction
from mindrlhf_lite.types import CompletionView


def views(texts):
    return [CompletionView(text) for text in texts]


def scores(name, texts, timeout_s=10.0, weight=1.0):
    reward = RewardFunction([name], [weight], timeout_s, num_workers=1)
    try:
        return reward.score(views(texts), ["1"] * len(texts))[name]
    finally:
        reward.close()
