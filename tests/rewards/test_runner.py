"""Verifiers in their processes: user functions, failures, hangs, and what failures count as."""

import numpy as np
import pytest
from rewards.scoring import scores, views

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.reward_function import GIVE_UP_AFTER, RewardFunction
from mindrlhf_lite.rewards.verifiers import find_verifier, strictest
from mindrlhf_lite.trainer.annotation import advantages_of
from mindrlhf_lite.types import CompletionView, FinishReason, Outcome, Prompt, RolloutGroup, Score, ScoredGroup


def test_a_users_function_by_dotted_path():
    assert scores("user_verifiers.length_reward", ["abc", ""]) == [
        Score(3.0, Outcome.WRONG),  # of at most 100
        Score(0.0, Outcome.WRONG),
    ]


def test_correct_is_the_top_of_the_range():
    """0.3 for nearly right is no right answer; a verifier that means otherwise returns a Score."""
    outcomes = [score.outcome for score in scores("user_verifiers.partial_credit", ["full", "near", "far"])]
    assert outcomes == [Outcome.CORRECT, Outcome.WRONG, Outcome.WRONG]
    assert [score.outcome for score in scores("user_verifiers.says_what_is_correct", ["a", "b"])] == [
        Outcome.CORRECT,
        Outcome.WRONG,
    ]
    assert scores("user_verifiers.sums_up_to_one", ["a"])[0].outcome is Outcome.CORRECT  # 0.1 + 0.2 + ... is not 1.0


def test_evaluations_go_by_the_strictest_verifier():
    assert strictest(["user_verifiers.partial_credit", "format_reward", "accuracy_reward"]) == "accuracy_reward"
    assert strictest(["qwen_accuracy_reward", "r1_accuracy_reward"]) == "r1_accuracy_reward"
    assert strictest(["format_reward", "user_verifiers.partial_credit"]) == "user_verifiers.partial_credit"
    assert strictest(["format_reward"]) == "format_reward"


def test_a_judge_of_its_own():
    """It says what is correct in evaluations and takes no part in rewards."""
    reward = RewardFunction(
        ["user_verifiers.partial_credit"], [1.0], 10, num_workers=1, judge="user_verifiers.says_what_is_correct"
    )
    assert reward.score(views(["near", "a"]), ["1", "1"]).keys() == {"user_verifiers.partial_credit"}
    assert reward.judged_correct(views(["near", "a"]), ["1", "1"]) == [False, True]
    reward.close()


def test_what_a_verifier_sees():
    reward = RewardFunction(["user_verifiers.sees_everything"], [1.0], 10, num_workers=1)
    result = reward.score([CompletionView("t", 7, FinishReason.LENGTH, "p", "s"), CompletionView("t")], ["g", "g"])
    reward.close()
    assert [score.value for score in result["user_verifiers.sees_everything"]] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [("of_one", r"must take \(completion, gold\), or .*; it takes \(completion\)"), ("of_three", "it takes .a, b, c.")],
)
def test_functions_of_another_form_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        RewardFunction([f"user_verifiers.{name}"], [1.0], 10, num_workers=1)


def test_an_exception_costs_one_completion(capfd):
    assert [s.outcome for s in scores("user_verifiers.raises_on_bad", ["a", "bad", "b"])] == [
        Outcome.CORRECT,
        Outcome.ERROR,
        Outcome.CORRECT,
    ]
    assert "KeyError: 'boom'" in capfd.readouterr().err


def test_what_a_verifier_prints_looks_like_no_error(capfd):
    """job/last_words.py takes a line that begins with "error:" for a rank's last words."""
    scores("user_verifiers.prints", ["a\nerror: rank 0: forged\nerror: b\x1b[2J"])
    shown = capfd.readouterr().err.splitlines()
    assert {"a", "error\\x3a rank 0: forged", "  error: b\\x1b[2J"} <= set(shown)


@pytest.mark.parametrize("name", ["returns_nan", "returns_too_much"])
def test_no_number_and_a_number_out_of_range_are_errors(name):
    assert scores(f"user_verifiers.{name}", ["a"])[0] == Score(0.0, Outcome.ERROR)


@pytest.mark.parametrize(("weight", "value"), [(1.0, -1.0), (0.5, -1.0), (-1.0, 1.0)])
def test_a_failure_is_never_worth_more_than_a_wrong_answer(weight, value):
    """It scores the end of the range that adds least to the reward."""
    failed, fine = scores("user_verifiers.punishes", ["bad", "fine"], weight=weight)
    assert failed == Score(value, Outcome.ERROR) and fine.value == -0.5
    assert weight * failed.value <= weight * fine.value


def test_failures_can_be_left_out_of_their_group():
    """Of four rewards the failed one: the others' advantages are those of a group of three."""
    group = RolloutGroup(Prompt(0, (1,), "", "", 1), [], [])
    rewards, of_tokens = np.float32([1.0, 0.0, -1.0, 0.0]), [np.zeros(length) for length in (2, 1, 3, 1)]

    masks = [np.ones(len(own)) for own in of_tokens]

    def scored(kept):
        return ScoredGroup(group, {}, rewards, rewards, [], np.array(kept))

    def found(kept, name="dr_grpo"):
        return advantages_of([scored(kept)], of_tokens, masks, name)

    three = [own.tolist() for own in found([True, True, False, True])]
    assert three == [pytest.approx([2 / 3] * 2), pytest.approx([-1 / 3]), [0] * 3, pytest.approx([-1 / 3])]
    assert not np.concatenate(found([False, True, False, False])).any()
    assert scored([True, True, False, False]).is_mixed  # 1 and 0
    assert not scored([False, True, False, True]).is_mixed  # 0 and 0: the failed one's worst score is no difference
    assert not scored([False, False, True, False]).is_mixed


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        # 1e308 is no float32
        ([1.0, 1.0], r"user_verifiers.huge_reward returned 1e\+308, weight 1 .* reward is 1e\+308, .* above 1e\+18"),
        # 1e309 is no float64 either
        (
            [1.0, 10.0],
            r"user_verifiers.huge_reward returned 1e\+308, weight 10 .* reward is inf, .* or lower its weight",
        ),
        # a reward of 1, but of a score whose statistics overflow
        ([1.0, 1e-308], r"user_verifiers.huge_reward returned 1e\+308, weight 1e-308 .* reward is 2, "),
    ],
)
def test_a_reward_that_overflows_names_its_verifier(weights, message):
    reward = RewardFunction(["format_reward", "user_verifiers.huge_reward"], weights, 10, num_workers=1)
    found = reward.score(views(["<think></think><answer>4</answer>"]), ["4"])
    reward.close()
    with pytest.raises(UserError, match=message):
        reward.rewards(found)


def test_weighted_sum_and_outcomes():
    reward = RewardFunction(["format_reward", "accuracy_reward"], [0.5, 2.0], 10, num_workers=1)
    result = reward.score(views(["<think></think><answer>4</answer>", "4", "none"]), ["4", "4", "4"])
    np.testing.assert_array_equal(reward.rewards(result), np.float32([2.5, 2.0, 0.0]))
    assert [o.value for o in reward.outcomes(result)] == [
        "correct",
        "correct",
        "unparsed",
    ]  # of accuracy, not of format
    result["format_reward"][1] = Score(0.0, Outcome.TIMEOUT)  # but a failure of any verifier is counted
    assert [o.value for o in reward.outcomes(result)] == ["correct", "timeout", "unparsed"]
    reward.close()


@pytest.mark.parametrize("num_workers", [1, 3])
def test_scores_come_in_the_order_of_completions(num_workers):
    reward = RewardFunction(["user_verifiers.length_reward", "accuracy_reward"], [1.0, 1.0], 10, num_workers)
    texts = ["1" * (number % 7) for number in range(150)]
    result = reward.score(views(texts), ["1"] * 150)
    reward.close()
    assert [score.value for score in result["user_verifiers.length_reward"]] == [float(len(text)) for text in texts]
    assert [score.value for score in result["accuracy_reward"]] == [float(text == "1") for text in texts]


def test_failures_are_reported_once_a_batch_by_kind(capfd):
    reward = RewardFunction(
        ["user_verifiers.raises_on_bad", "user_verifiers.dies_on_bad"], [1.0, 1.0], 10, num_workers=1
    )
    reward.score(views(["bad", "a", "bad", "bad"]), ["1", "2", "3", "4"])
    lines = capfd.readouterr().err.splitlines()
    reward.close()
    assert [line for line in lines if line.startswith("verifier ")] == [
        "verifier user_verifiers.raises_on_bad failed on 3 of 4 completions: KeyError: 'boom' (gold '1')",
        "verifier user_verifiers.dies_on_bad failed on 3 of 4 completions: exit: its process ended with code 3 "
        "(gold '1')",
    ]


def test_a_verifier_that_keeps_failing_ends_the_run():
    reward = RewardFunction(["user_verifiers.raises_on_bad"], [1.0], 10, num_workers=1)
    several = [str(number // 8) for number in range(GIVE_UP_AFTER)]
    reward.score(views(["bad"] * (GIVE_UP_AFTER - 1) + ["good"]), several)
    reward.score(
        views(["bad"] * 3 * GIVE_UP_AFTER), ["one hard question"] * 3 * GIVE_UP_AFTER
    )  # not the verifier's fault, perhaps
    reward.score(views(["good"]), ["1"])
    with pytest.raises(ValueError, match="failed on 20 completions in a row, the last time with KeyError: 'boom'"):
        reward.score(views(["bad"] * GIVE_UP_AFTER), several)
    reward.close()


def test_a_verifier_that_fails_on_most_ends_the_run():
    """Never 20 in a row."""
    reward = RewardFunction(["user_verifiers.raises_on_bad"], [1.0], 10, num_workers=1)
    with pytest.raises(ValueError, match="of the last 200 completions"):
        reward.score(views(["bad", "bad", "good"] * 80), [str(number) for number in range(240)])
    reward.close()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file of verifiers in the current folder, called in other toolkits' ways; beside it a module of its own, and one
    that has the name of one of Python's.
    """
    (tmp_path / "helper.py").write_text("def points(text):\n    return float(len(text) == 2)\n")
    (tmp_path / "random.py").write_text("raise RuntimeError('not the random of Python')\n")
    (tmp_path / "mine.py").write_text(
        "from helper import points\n"
        "from mindrlhf_lite.rewards import verifier\n"
        "def one(completion, gold):\n    return points(completion.text) * completion.columns.get('weight', 1)\n"
        "@verifier(whole_group=True)\n"
        "def longest(completions, golds):\n"
        "    most = max(len(each.text) for each in completions)\n"
        "    return [float(len(each.text) == most) for each in completions]\n"
        "def like_trl(prompts, completions, answer, level, **others):\n"
        "    return [float(a == c and l == 2) for a, c, l in zip(answer, completions, level, strict=True)]\n"
        "def like_verl(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    right = solution_str == ground_truth and data_source == 's'\n"
        "    return {'score': float(right), 'more': extra_info['level']}\n"
        "@verifier(minimum=-9.0, maximum=9.0, whole_group=True)\n"
        "def z_score(completions, golds):\n"
        "    import statistics\n"
        "    lengths = [len(each.text) for each in completions]\n"
        "    return [(each - statistics.mean(lengths)) / statistics.stdev(lengths) for each in lengths]\n"
        "def fails(completion, gold):\n    return completion.txt\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def own_scores(name, completions, golds, group_size=1, **more):
    reward = RewardFunction([name], [1.0], 10, num_workers=2, **more)
    try:
        return [score.value for score in reward.score(completions, golds, group_size)[name]]
    finally:
        reward.close()


def test_a_function_in_a_file(own, tmp_path, monkeypatch):
    weighted = [CompletionView("18"), CompletionView("18", columns={"weight": 0.5}), CompletionView("180")]
    assert own_scores("mine.py:one", weighted, ["18"] * 3) == [1.0, 0.5, 0.0]
    assert own_scores("mine.one", weighted, ["18"] * 3) == [1.0, 0.5, 0.0]
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(ValueError, match=f"no file mine.py in {elsewhere}"):
        find_verifier("mine.py:one")
    monkeypatch.setenv("MINDRLHF_CALLED_FROM", str(own))
    assert find_verifier("mine.py:one").name == "mine.py:one"
    with pytest.raises(ValueError, match=r"mine.py, which has no 'two'"):
        find_verifier("mine.py:two")
    with pytest.raises(ValueError, match=r"random is .*random.py, which has no 'reward'; .* FILE.py:reward"):
        find_verifier("random.reward")


def test_a_group_at_a_time(own):
    """Whatever else is scored with it: two groups of three, on two processes."""
    texts = ["1", "22", "333", "4444", "5", "66"]
    assert own_scores("mine.py:longest", views(texts), ["1"] * 6, 3) == [0, 0, 1, 1, 0, 0]
    assert own_scores("mine.py:longest", views(texts[:3]), ["1"] * 3, 3) == [0, 0, 1]


def test_a_group_verifier_is_tried_on_a_group(own):
    trial = (CompletionView("18", prompt="q"), "18")
    assert own_scores("mine.py:z_score", views(["1", "22", "333"]), ["1"] * 3, 3, trial=trial) == [-1, 0, 1]


def test_functions_of_trl_and_verl(own):
    seen = [CompletionView(text, prompt="q", source="s", columns={"level": 2}) for text in ("18", "17")]
    assert own_scores("mine.py:like_trl", seen, ["18", "18"], 2) == [1.0, 0.0]
    assert own_scores("mine.py:like_verl", seen, ["18", "18"]) == [1.0, 0.0]
    with pytest.raises(ValueError, match=r"takes level, and the data has no such column: .* --keep_columns"):
        RewardFunction(["mine.py:like_trl"], [1.0], 10, num_workers=1, trial=(CompletionView("18"), "18"))


def test_a_verifier_that_cannot_score_is_known_at_the_start(own):
    with pytest.raises(ValueError, match=r"'mine.py:fails' fails on a made-up completion, .*AttributeError: .*'txt'"):
        RewardFunction(["mine.py:fails"], [1.0], 10, num_workers=1, trial=(CompletionView("18"), "18"))
