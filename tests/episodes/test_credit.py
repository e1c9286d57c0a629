"""Credit by turn: golden values, worked out by hand in the comments."""

import numpy as np
import pytest

from mindrlhf_lite.algorithms.advantage import ADVANTAGES, GroupRewards
from mindrlhf_lite.algorithms.credit import TurnRewards, advantages_by_turn, discounted_returns
from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.trainer.annotation import advantages_of, advantages_of_turns, as_sequences
from mindrlhf_lite.turns import Episode, EpisodeEnd, Turn
from mindrlhf_lite.types import Completion, FinishReason, Outcome, Prompt, RolloutGroup, Score, ScoredGroup


def test_returns():
    assert discounted_returns([1, 0, 4], 0.5).tolist() == [2, 2, 4]
    assert discounted_returns([1, 0, 4], 1.0).tolist() == [5, 4, 4]
    assert discounted_returns([], 1.0).tolist() == []


def turn_rewards(spans, rewards, length, of_tokens=None):
    tokens = np.zeros(length) if of_tokens is None else np.array(of_tokens)
    mask = np.zeros(length)
    for span in spans:
        mask[slice(*span)] = 1
    return TurnRewards(spans, np.array(rewards, float), tokens, mask)


def test_turns_are_compared_with_the_same_turn_of_others():
    """Discount 0.5. First: returns 1 + 0.5 * 2 = 2 and 2; second: 0 + 0.5 * 4 = 2 and 4; third: 5 in one turn.
    First turns 2, 2, 5 have mean 3: -1, -1, 2. Second turns 2 and 4: -1, 1.
    """
    group = [
        turn_rewards([(0, 2), (4, 5)], [1, 2], 5),
        turn_rewards([(0, 1), (3, 6)], [0, 4], 6),
        turn_rewards([(0, 3)], [5], 3),
    ]
    (found,) = advantages_by_turn([group], "dr_grpo", 0.5, least=2)
    assert [each.tolist() for each in found] == [[-1, -1, 0, 0, -1], [-1, 0, 0, 1, 1, 1], [2, 2, 2]]


def test_a_turn_of_one_completion_teaches_nothing():
    group = [turn_rewards([(0, 1), (2, 3), (4, 5)], [0, 0, 1], 5), turn_rewards([(0, 1), (2, 3)], [0, 0], 3)]
    (found,) = advantages_by_turn([group], "dr_grpo", 1.0, least=2)
    assert [each.tolist() for each in found] == [[0.5, 0, 0.5, 0, 0], [-0.5, 0, -0.5]]


def test_what_tokens_add_counts_in_their_turn_and_before():
    """Tokens of the second turn add -1: the first turn's return is 0 + (1 - 1) = 0 against 0, the second's 1 - 1 = 0
    against 2.
    """
    group = [
        turn_rewards([(0, 1), (2, 3)], [0, 1], 3, [0, 0, -1]),
        turn_rewards([(0, 1), (2, 3)], [0, 2], 3, [-2, 0, 0]),
    ]
    (found,) = advantages_by_turn([group], "dr_grpo", 1.0, least=2)
    assert [each.tolist() for each in found] == [[0, 0, -1], [0, 0, 1]]


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_in_one_turn_it_is_what_it_is_without(name):
    rng = np.random.default_rng(0)
    groups = [
        [turn_rewards([(0, length)], [reward], length, rng.normal(0, 0.1, length)) for length, reward in pairs]
        for pairs in ([(3, 1.0), (2, 0.0), (4, 0.5)], [(1, 0.0), (2, 2.0)])
    ]
    plain = [
        GroupRewards(
            np.array([own.rewards[0] for own in group]),
            [own.of_tokens for own in group],
            [own.mask for own in group],
        )
        for group in groups
    ]
    found = advantages_by_turn(groups, name, 0.9, least=1)
    for group, expected in zip(found, ADVANTAGES[name](plain), strict=True):
        for own, others in zip(group, expected, strict=True):
            np.testing.assert_array_equal(own, others)


def scored(turns_of_each, rewards, kept):
    completions = [
        Completion(
            tuple(range(turns[-1].end)),
            None,
            None,
            FinishReason.STOP,
            np.array([any(turn.start <= place < turn.end for turn in turns) for place in range(turns[-1].end)]),
            Episode(tuple(turns), EpisodeEnd.DONE),
        )
        for turns in turns_of_each
    ]
    values = np.array(rewards, np.float32)
    group = RolloutGroup(Prompt(0, (1,), "", "", 1), completions, [""] * len(completions))
    scores = {"one": [Score(float(value), Outcome.WRONG) for value in rewards]}
    return ScoredGroup(group, scores, values, values, [Outcome.WRONG] * len(rewards), np.array(kept))


def test_rewards_of_the_environment_and_of_others():
    """Weight 2: the environment's 1 in the first turn is worth 2; 0.5 more (another verifier) belongs to the last.
    First turns: 2.5 and 0: 1.25, -1.25. Second turns: 0.5 and 0: 0.25, -0.25. The third's environment failed.
    """
    config = build_config(
        {
            "reward_config.verifier_function": ["environment_reward", "format_reward"],
            "reward_config.verifier_weight": [2.0, 1.0],
            "rl_config.advantage": "dr_grpo",
            "rl_config.credit": "turn",
        }
    )
    turns = [[Turn(0, 1, 1.0), Turn(3, 4)], [Turn(0, 1), Turn(2, 4)], [Turn(0, 2)]]
    group = scored(turns, [2.5, 0.0, 9.0], [True, True, False])
    sequences = as_sequences([group])
    zeros, masks = [np.zeros(each.completion_length) for each in sequences], [each.mask for each in sequences]
    found = advantages_of_turns([group], zeros, masks, config)
    assert [each.tolist() for each in found] == [[1.25, 0, 0, 0.25], [-1.25, 0, -0.25, -0.25], [0, 0]]
    whole = advantages_of([group], zeros, masks, "dr_grpo")
    assert [each.tolist() for each in whole] == [[1.25] * 4, [-1.25] * 4, [0, 0]]


def test_rounding_of_a_reward_is_no_reward():
    """0.3 in float32 is 1.2e-8 more: the second turns, of 0 and 0, do not differ by that."""
    config = build_config(
        {
            "reward_config.verifier_function": ["environment_reward"],
            "reward_config.verifier_weight": [1.0],
            "rl_config.credit": "turn",
        }
    )
    group = scored([[Turn(0, 1, 0.3), Turn(2, 3)], [Turn(0, 1), Turn(2, 3)]], [0.3, 0.0], [True, True])
    sequences = as_sequences([group])
    zeros, masks = [np.zeros(3)] * 2, [each.mask for each in sequences]
    found = advantages_of_turns([group], zeros, masks, config)
    assert [each.tolist()[1:] for each in found] == [[0, 0], [0, 0]] and found[0][0] > 0.7
