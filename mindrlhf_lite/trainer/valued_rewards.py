"""From scored groups and a critic's values to advantages and returns (algorithms/gae.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindrlhf_lite.algorithms.gae import ValuedTokens, advantages_and_returns
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.rewards.verifiers import ENVIRONMENT_REWARD
from mindrlhf_lite.types import ScoredGroup


def valued_advantages(
    groups: Sequence[ScoredGroup],
    values: Sequence[np.ndarray],
    of_tokens: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    config: Config,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(advantages, returns) of every completion in order, float32 [C].

    Args: values, of_tokens, masks: of each completion [C]: the critic's, what its tokens add to its reward, and 1 on
    those that count.
    """
    rl, places = config.rl_config, iter(range(len(values)))
    completions = []
    for scored in groups:
        for index in range(len(scored.rewards)):
            place = next(places)
            paid = _paid(scored, index, masks[place], config) + of_tokens[place]
            completions.append(ValuedTokens(paid, values[place], masks[place]))
    return advantages_and_returns(completions, rl.gamma, rl.lam, rl.advantage_whiten)


def _paid(scored: ScoredGroup, index: int, mask: np.ndarray, config: Config) -> np.ndarray:
    """[C]: a completion's reward, at its last token that counts; with credit=turn what the environment paid for a turn
    at that turn's last one.
    """
    paid, counted, completion = np.zeros(len(mask)), np.flatnonzero(mask), scored.group.completions[index]
    if not len(counted):
        return paid
    rest = float(scored.rewards[index])
    if config.rl_config.credit == "turn" and completion.episode is not None:
        reward = config.reward_config
        weights = dict(zip(reward.verifier_function, reward.verifier_weight, strict=True))
        for turn in completion.episode.turns:
            own, inside = weights.get(ENVIRONMENT_REWARD, 0.0) * turn.reward, counted[counted < turn.end]
            paid[inside[-1] if len(inside) else counted[0]] += own
            rest -= own
    paid[counted[-1]] += rest
    return paid
