"""tools/sample_best.py: which completions become rows, on made-up ones and as users call it."""

import json

import numpy as np
import pytest
from helpers import read_jsonl, run_python
from rewards.judging_server import judging

from mindrlhf_lite.inference.best_samples import Choice, choose
from mindrlhf_lite.rewards.reward_function import RewardFunction
from mindrlhf_lite.types import Completion, FinishReason, Prompt, RolloutGroup

TEXTS = ["18", " 18", "so: 18", "17", "about 18", "18 and cut"]


@pytest.fixture(scope="module")
def reward():
    reward = RewardFunction(["accuracy_reward"], [2.0], 10, num_workers=1)
    yield reward
    reward.close()


def groups():
    found = []
    for number, gold in enumerate(("18", "9")):
        ends = [FinishReason.LENGTH if "cut" in text else FinishReason.STOP for text in TEXTS]
        completions = [Completion((1, 2), np.zeros(2, np.float32), None, end) for end in ends]
        found.append(RolloutGroup(Prompt(number, (3,), f"q{number}", gold, number + 1), completions, TEXTS))
    return found


def test_right_ones_without_duplicates_up_to_the_most(reward):
    rows, counts = choose(groups(), reward, Choice("correct", 2), "prompt")
    assert [row["response"] for row in rows] == ["18", "so: 18"] and rows[0] == {
        "prompt": "q0",
        "response": "18",
        "source": "",
        "row": 1,
        "reward": 2.0,
    }
    # "about 18" is right too, and one too many; of the other question all are wrong
    expected = {"questions": 2, "completions": 12, "truncated": 2, "failed": 0, "wrong": 6, "below_least_reward": 0}
    assert counts.as_dict() == {
        **expected,
        "duplicates": 1,
        "beyond_most": 1,
        "kept": 2,
        "questions_kept": 1,
        "mean_reward_kept": 2.0,
    }
    assert counts.in_words() == (
        "kept 2 of 12 completions, of 1 of 2 questions; left out: 2 truncated, 6 wrong, 1 duplicates, 1 beyond most"
    )


def test_the_best_and_a_least_reward(reward):
    rows, counts = choose(groups(), reward, Choice("best", 1), "messages")
    assert [row["messages"][1]["content"] for row in rows] == ["18", "18"] and counts.wrong == 0
    assert rows[0]["messages"][0] == {"role": "user", "content": "q0"}
    rows, counts = choose(groups(), reward, Choice("best", 9, 1.0, keeps_truncated=True), "prompt")
    assert [row["response"] for row in rows] == ["18", "so: 18", "about 18", "18 and cut"]
    assert counts.below_least_reward == 7 and counts.truncated == 0


def test_as_users_call_it(quickstart_model, sums, tmp_path):
    common = ("--model", quickstart_model, "--dataset", sums, "--max_tokens", 40, "--max_prompts", 12)
    for name, more in (("first", ()), ("again", ("--max_num_seqs", 5))):
        done = run_python("tools/sample_best.py", *common, "--most", 3, "--output", tmp_path / f"{name}.jsonl", *more)
        assert done.returncode == 0, done.stderr
    first = (tmp_path / "first.jsonl").read_text()
    assert first == (tmp_path / "again.jsonl").read_text()
    rows, counts = read_jsonl(tmp_path / "first.jsonl"), json.loads((tmp_path / "first.counts.json").read_text())
    assert 0 < counts["kept"] == len(rows) and counts["completions"] == 96 and counts["settings"]["k"] == 8
    left_out = ("truncated", "failed", "wrong", "below_least_reward", "duplicates", "beyond_most")
    assert counts["kept"] + sum(counts[name] for name in left_out) == 96
    assert len({(row["prompt"], row["response"]) for row in rows}) == len(rows)
    for row in rows:
        left, _, right = row["prompt"].removesuffix("=").partition("+")
        gold = str(int(left) + int(right))
        assert row["response"].endswith((f"<answer>{gold}</answer>", f"<answer>\\boxed{{{gold}}}</answer>"))
    other = run_python("tools/sample_best.py", *common, "--seed", 1, "--output", tmp_path / "other.jsonl")
    assert other.returncode == 0 and (tmp_path / "other.jsonl").read_text() != first


def test_a_judge_scores_them_and_mistakes_are_refused_in_words(quickstart_model, sums, tmp_path):
    common = ("--model", quickstart_model, "--dataset", sums, "--max_tokens", 40, "--max_prompts", 2, "--k", 2)
    output = ("--output", tmp_path / "out.jsonl", "--verifier", "judge_reward")
    with judging(lambda prompt, before: f"Mark: {len(prompt) % 10}") as server:
        judge = ("--judge", f"address={server.address}", "model=m")
        done = run_python("tools/sample_best.py", *common, *output, "--keep", "best", *judge)
        assert done.returncode == 0 and len(server.asked) > 1, done.stderr
    assert all(row["reward"] <= 0.9 for row in read_jsonl(tmp_path / "out.jsonl"))
    plain = ("--output", tmp_path / "out.jsonl", "--keep", "best", "--min_reward", 3)
    for more, words in (
        (plain, "the highest reward below it was"),
        (output, "reward_config.judge.address=''"),
        ((*output, "--judge", "timeout=9"), "did you mean reward_config.judge.timeout_s"),
        (("--output", tmp_path / "none" / "out.jsonl"), "a file in a folder that is there"),
        (("--output", tmp_path / "out.jsonl", "--weight", "1", "2"), "need as many weights"),
    ):
        refused = run_python("tools/sample_best.py", *common, *more)
        assert refused.returncode == 2 and words in refused.stderr and "Traceback" not in refused.stderr, refused.stderr
