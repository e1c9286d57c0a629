"""A curriculum by measured pass rate: which levels are drawn, and that a checkpoint holds all of it."""

import json
from collections import Counter

import numpy as np
import pytest

from mindrlhf_lite.data.curriculum import CurriculumSampler, levels_of
from mindrlhf_lite.data.prompt_sampler import PromptSampler
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.types import Completion, FinishReason, Outcome, Prompt, RolloutGroup, ScoredGroup

LEVELS = [1, 2, 10] * 20  # of 60 prompts; numbers, in their order


def group(index, correct, of, kept=None):
    completion = Completion((1,), None, None, FinishReason.STOP)
    outcomes = [Outcome.CORRECT] * correct + [Outcome.WRONG] * (of - correct)
    rewards = np.zeros(of, np.float32)
    whole = RolloutGroup(Prompt(index, (1,), "", "", 1), [completion] * of, [""] * of)
    return ScoredGroup(whole, {}, rewards, rewards, outcomes, np.ones(of, bool) if kept is None else np.array(kept))


def sampler(**more):
    return CurriculumSampler(LEVELS, **{"seed": 3, "memory": 0.5, "floor": 0.2} | more)


def test_shares_by_hand():
    """Level 1 passes 7 of 8, then 3 of 8: 0.5 * 0.875 + 0.5 * 0.375 = 0.625. Level 2 passes never. Level 10 is
    unknown: 1/2. Weights 4 p (1 - p) + 0.2: 1.1375, 0.2, 1.2; of 2.5375 in all.
    """
    own = sampler()
    own.learn([group(0, 7, 8), group(1, 0, 8)])
    own.learn([group(3, 3, 8)])
    assert [own.metrics[f"curriculum/{name}/pass_rate"] for name in ("1", "2", "10")] == [0.625, 0, 0.5]
    assert list(own.shares) == ["1", "2", "10"]
    assert list(own.shares.values()) == pytest.approx([1.1375 / 2.5375, 0.2 / 2.5375, 1.2 / 2.5375])
    drawn = Counter(LEVELS[index] for index in own.take(3000))
    assert [drawn[level] / 3000 for level in (1, 2, 10)] == pytest.approx(list(own.shares.values()), abs=0.03)


def test_what_does_not_count_in_its_group_is_not_measured():
    own = sampler()
    own.learn([group(0, 1, 4, kept=[True, False, False, True]), group(1, 4, 4, kept=[False] * 4)])
    assert own.levels["1"].rate == 0.5 and own.levels["2"].measured == 0


def test_the_prompts_of_a_level_come_once_each_before_one_comes_again():
    own = sampler(floor=0.0)
    own.learn([group(1, 0, 8), group(2, 8, 8)])  # nothing to learn from two of the levels
    assert sorted(own.take(20)) == list(range(0, 60, 3)) and own.epochs == pytest.approx(1 / 3)


def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_been():
    def step(own, number):
        taken = own.take(8)
        own.learn([group(index, (index + number) % 5, 4) for index in taken])
        return taken

    whole, first = sampler(), sampler()
    expected = [step(whole, number) for number in range(12)]
    assert [step(first, number) for number in range(5)] == expected[:5]
    resumed = sampler()
    resumed.restore_from(json.loads(json.dumps(first.as_dict())))
    assert [step(resumed, number) for number in range(5, 12)] == expected[5:]
    assert resumed.as_dict() == whole.as_dict()


def test_checkpoints_of_other_runs_are_refused():
    plain = PromptSampler(60, 3)
    with pytest.raises(UserError, match="of a run with other levels, or with none"):
        sampler().restore_from(plain.as_dict())
    with pytest.raises(UserError, match="of a run with a curriculum"):
        plain.restore_from(sampler().as_dict())


def test_rows_without_a_level_are_named():
    prompts = [Prompt(0, (1,), "", "", 7, columns={"level": 3}), Prompt(1, (1,), "", "", 9)]
    assert levels_of(prompts[:1], "level") == [3]
    with pytest.raises(UserError, match=r"column='level': row 9 has none there; convert"):
        levels_of(prompts, "level")
