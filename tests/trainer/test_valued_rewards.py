"""Where a completion's reward is paid before a critic's values are compared with it, and that these are recorded."""

from dataclasses import replace

import numpy as np

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.data.experience_file import ExperienceHeader, read_experience, write_experience
from mindrlhf_lite.trainer.annotation import as_sequences
from mindrlhf_lite.trainer.valued_rewards import valued_advantages
from mindrlhf_lite.turns import Episode, EpisodeEnd, Turn
from mindrlhf_lite.types import VALUES, Completion, FinishReason, Outcome, Prompt, RolloutGroup, ScoredGroup

# lam = gamma = 1 and values of 0: an advantage is all that is still paid
SETTINGS = {
    "rl_config.advantage": "gae",
    "rl_config.lam": 1.0,
    "rl_config.advantage_whiten": False,
    "reward_config.verifier_function": ["environment_reward", "format_reward"],
    "reward_config.verifier_weight": [2.0, 1.0],
}
WRITTEN = np.array([1, 1, 0, 0, 1, 1], np.float32)


def scored(rewards):
    """Two completions of two turns, tokens 0, 1 and 4, 5; the environment pays 1 for the first, 0.5 for the second."""
    episode = Episode((Turn(0, 2, reward=1.0), Turn(4, 6, reward=0.5)), EpisodeEnd.DONE)
    one = Completion((1,) * 6, None, None, FinishReason.STOP, WRITTEN > 0, episode)
    group = RolloutGroup(Prompt(0, (1,), "q", "", 1), [one, one], ["", ""])
    values = np.array(rewards, np.float32)
    return ScoredGroup(group, {}, values, values, [Outcome.WRONG] * 2, np.ones(2, bool))


def advantages(masks, **changes):
    config = build_config({**SETTINGS, **{f"rl_config.{name}": value for name, value in changes.items()}})
    of_tokens = [np.array([0, 0, 9, 9, 0, -0.25]) * mask for mask in masks]  # as a KL in the reward is
    found, returns = valued_advantages([scored([4.0, 3.0])], [np.zeros(6, np.float32)] * 2, of_tokens, masks, config)
    np.testing.assert_allclose(found, returns)
    return np.array(found).tolist()


def test_the_whole_reward_is_paid_at_the_last_written_token():
    assert advantages([WRITTEN] * 2) == [[3.75, 3.75, 0, 0, 3.75, 3.75], [2.75, 2.75, 0, 0, 2.75, 2.75]]


def test_a_turn_is_paid_at_its_own_last_token():
    """2 * 1 at token 1, 2 * 0.5 and the rest of the reward at token 5."""
    found = advantages([WRITTEN] * 2, credit="turn", gamma=0.5)
    # backwards: 2 - 0.25; half of it; 2 and half of that; half of it
    assert found[0] == [1.21875, 2.4375, 0, 0, 0.875, 1.75]
    assert found[1] == [1.09375, 2.1875, 0, 0, 0.375, 0.75]


def test_a_completion_that_does_not_count_is_paid_nothing():
    assert advantages([WRITTEN, np.zeros(6, np.float32)])[1] == [0.0] * 6


def test_what_further_roles_found_is_recorded_for_replay(tmp_path):
    """A teacher's logprobs and a critic's values come back bit for bit, beside what every run records."""
    group, path = scored([4.0, 3.0]), tmp_path / "step.mindrecord"
    rng = np.random.default_rng(0)
    sequences = [
        replace(each, of_roles={name: rng.standard_normal(6).astype(np.float32) for name in ("teacher", VALUES)})
        for each in as_sequences([group])
    ]
    write_experience(path, ExperienceHeader(1, 0.0, "", "", 1, 1, {}), [group], sequences)
    for read, written in zip(read_experience(path).sequences, sequences, strict=True):
        assert read.of_roles.keys() == {"teacher", VALUES}
        assert all((read.of_roles[name] == values).all() for name, values in written.of_roles.items())
        assert (read.mask == written.mask).all() and (read.written == written.written).all()
