"""Credit by turn: what a turn, and those after it, were paid is compared with the same turn of the group's other
completions; so any advantage of `advantage.py` is made of turns.

In the first turn all of a group stand at the same place, and the comparison is as fair as that of whole completions. A
turn that only one of the group has come to is compared with nothing, and teaches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mindrlhf_lite.algorithms.advantage import ADVANTAGES, GroupRewards

Span = tuple[int, int]  # of a turn's tokens: first, and behind the last


@dataclass(frozen=True)
class TurnRewards:
    """Of one completion [C] of T turns.

    Example: TurnRewards([(0, 2), (5, 6)], np.array([0.0, 1.0]), np.zeros(6), np.ones(6))
    """

    spans: Sequence[Span]
    rewards: np.ndarray  # [T]
    of_tokens: np.ndarray  # [C]: what its tokens add to its reward
    mask: np.ndarray  # [C]: 1 on tokens that count


def discounted_returns(rewards: Sequence[float], discount: float) -> np.ndarray:
    """float64 [T]: sum over k >= t of discount^(k - t) r_k. Example: [1, 0, 4], 0.5 -> [2, 2, 4]"""
    found, later = np.zeros(len(rewards)), 0.0
    for turn in reversed(range(len(rewards))):
        found[turn] = later = float(rewards[turn]) + discount * later
    return found


def advantages_by_turn(
    groups: Sequence[Sequence[TurnRewards]], name: str, discount: float, least: int
) -> list[list[np.ndarray]]:
    """Of each group, of each completion: float32 [C], 0 outside of its turns.

    Args: name: of `ADVANTAGES`; least: completions that a comparison needs.
    """
    found = [[np.zeros(len(own.of_tokens), np.float32) for own in group] for group in groups]
    compared: list[tuple[int, int, list[int]]] = []  # group, turn, its completions that have come to it
    rewards = []
    for number, group in enumerate(groups):
        returns = [_returns(own, discount) for own in group]
        for turn in range(max((len(own.spans) for own in group), default=0)):
            members = [index for index, own in enumerate(group) if turn < len(own.spans)]
            if len(members) >= least:
                compared.append((number, turn, members))
                rewards.append(_rewards_of_turn(group, returns, members, turn))
    for (number, turn, members), advantages in zip(compared, ADVANTAGES[name](rewards) if rewards else [], strict=True):
        for index, own in zip(members, advantages, strict=True):
            found[number][index][slice(*groups[number][index].spans[turn])] = own
    return found


def _returns(own: TurnRewards, discount: float) -> np.ndarray:
    """[T], without what the tokens of the turn itself add: that stays with the tokens."""
    added = np.array([own.of_tokens[slice(*span)].sum() for span in own.spans])
    return discounted_returns(np.asarray(own.rewards, np.float64) + added, discount) - added


def _rewards_of_turn(
    group: Sequence[TurnRewards], returns: Sequence[np.ndarray], members: Sequence[int], turn: int
) -> GroupRewards:
    spans = {index: slice(*group[index].spans[turn]) for index in members}
    return GroupRewards(
        np.array([returns[index][turn] for index in members]),
        [group[index].of_tokens[spans[index]] for index in members],
        [group[index].mask[spans[index]] for index in members],
    )
