"""reasoning-gym's tasks: rows that a seed makes again, splits that share nothing, its scorers, and all data sets."""

import json

import pytest
from helpers import ROOT, run_python

from mindrlhf_lite.data.reasoning_tasks import LEVEL, Mixture, split_of
from mindrlhf_lite.data.records import read_prompts
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.reasoning import ENTRY, packed, reasoning_gym_reward, unpacked
from mindrlhf_lite.rewards.verifiers import find_verifier
from mindrlhf_lite.types import CompletionView, Outcome

pytest.importorskip("reasoning_gym", reason="needs the extra reasoning_gym")


def rows(task, count, seed=0, split="train", levels=()):
    ((_, found),) = Mixture([task], None, count, seed, split, levels).rows()
    return list(found)


def scored(row, text, prompt=""):
    given = CompletionView(text, prompt=prompt, columns={ENTRY: json.loads(json.dumps(row[ENTRY]))})
    return reasoning_gym_reward(given, row["answer"])


def test_a_seed_makes_the_same_rows_and_another_one_others():
    assert rows("chain_sum", 20) == rows("chain_sum", 20)
    questions = [{row["question"] for row in rows("chain_sum", 50, seed)} for seed in (0, 1)]
    assert len(questions[0]) == 50 and len(questions[0] & questions[1]) < 5  # its own seeds would share 49


def test_splits_share_no_question_whatever_the_seeds():
    train = {row["question"] for seed in range(3) for row in rows("chain_sum", 100, seed)}
    held_out = {row["question"] for row in rows("chain_sum", 100, 7, "held_out")}
    assert not train & held_out
    assert {split_of(question) for question in train} == {"train"}


def test_levels_are_its_own_curriculums():
    found = rows("chain_sum", 9, levels=(0, 1, 5))
    assert [row[LEVEL] for row in found] == [0, 1, 5] * 3
    lengths = [sum(len(row["question"]) for row in found[level::3]) for level in range(3)]
    assert lengths == sorted(lengths) and lengths[2] > lengths[0]
    with pytest.raises(UserError, match="list_functions has none in reasoning-gym"):
        rows("list_functions", 3, levels=(0,))


def test_mistakes():
    with pytest.raises(UserError, match="--task count_down: reasoning-gym has ab, acre, "):
        rows("count_down", 3)
    with pytest.raises(UserError, match=r"coin_flip has \d+ different questions of the held_out split; ask for fewer"):
        rows("coin_flip", 100000, split="held_out")
    with pytest.raises(UserError, match="too few for 2 tasks"):
        Mixture(["gcd", "lcm"], [1.0, 100.0], 3).rows()


def test_where_the_answer_has_to_stand():
    row = rows("chain_sum", 1)[0]
    gold, wrong = row["answer"], str(int(row["answer"]) + 1)
    for text in (f"<answer>{gold}</answer>", f"so \\boxed{{{gold}}}", gold, f"<think>{wrong}</think> {gold}\n"):
        assert scored(row, text).outcome is Outcome.CORRECT
    assert scored(row, f"{wrong}</think>{gold}", prompt="so <think>").outcome is Outcome.CORRECT
    for text in (f"<answer>{wrong}</answer>", f"<answer>{wrong}</answer>{gold}", wrong):
        assert scored(row, text).outcome is Outcome.WRONG
    assert scored(row, "<answer></answer>").outcome is scored(row, "<think>").outcome is Outcome.UNPARSED


def test_any_right_answer_counts_and_partial_ones_are_paid_in_part():
    row = rows("countdown", 1)[0]
    metadata = unpacked(row[ENTRY]["entry"])["metadata"]
    assert scored(row, metadata["expression"]).value == 1.0
    assert 0 < scored(row, str(metadata["numbers"][0])).value < 1  # a formula, and not of all numbers
    assert reasoning_gym_reward(CompletionView("7"), "7").outcome is Outcome.UNPARSED  # of no task


def test_scorers_find_tuples_and_keys_as_they_were():
    entry = {"a": (1, [2.5, (None,)]), "b": {0: "x", (1, 2): True}, "c": {"d": []}}
    assert unpacked(json.loads(json.dumps(packed(entry)))) == entry
    assert scored(rows("rearc", 1)[0], rows("rearc", 1)[0]["answer"]).value == 1.0


def test_a_mixture_as_its_users_make_it(tmp_path, quickstart_model):
    output = tmp_path / "rows.mindrecord"
    what = ("--dataset_type", "reasoning_gym", "--task", "chain_sum", "gcd", "--ratios", 3, 1, "--rows", 40)
    more = ("--seed", 5, "--levels", 0, 1, "--verifier_function", "reasoning_gym_reward", "--output_path", output)
    result = run_python("tools/rlhf_data.py", "--tokenizer_dir", quickstart_model, *what, *more)
    assert result.returncode == 0, result.stdout + result.stderr
    prompts = read_prompts(output)
    sources = [prompt.source for prompt in prompts]
    assert (sources.count("chain_sum"), sources.count("gcd")) == (30, 10) and sources[:30] != ["chain_sum"] * 30
    assert sorted(prompt.columns[LEVEL] for prompt in prompts) == [0] * 20 + [1] * 20
    score = find_verifier("reasoning_gym_reward").score
    for prompt in prompts:
        assert score(CompletionView(prompt.gold, columns=prompt.columns), prompt.gold).outcome is Outcome.CORRECT
    alone = run_python("tools/rlhf_data.py", "--tokenizer_dir", quickstart_model, *what[:2], "--output_path", output)
    assert alone.returncode == 2 and "give both" in alone.stderr


@pytest.mark.full
def test_all_of_its_data_sets_are_as_the_table_says():
    from data.reasoning_table import table

    written = (ROOT / "tests/data/reasoning_table.md").read_text().split("\n")
    assert table()[0] == [line.split(" | ")[0].strip("| ") for line in written if " | yes | " in line]
