"""tools/evaluate.py as users call it: accuracies, comparisons, broken verifiers."""

import copy
import json

import numpy as np
import pytest
from helpers import read_jsonl, run_python
from tools.rows import write_rows


def test_evaluate(quickstart_model, sums, tmp_path):
    common = ("--model", quickstart_model, "--dataset", sums, "--max_tokens", 40)
    for k in (1, 4):
        result = run_python("tools/evaluate.py", *common, "--k", k, "--output", tmp_path / f"k{k}.json")
        assert result.returncode == 0, result.stderr
        values, rows = (
            json.loads((tmp_path / f"k{k}.json").read_text()),
            read_jsonl(tmp_path / f"k{k}.completions.jsonl"),
        )
        low, high = values["interval_95"]
        assert 0 <= low < values["accuracy"] < high <= 1 and values["num_questions"] == 60
        assert list(values["pass_at"]) == [str(n) for n in (1, 2, 4) if n <= k] and values["pass_at"][
            "1"
        ] == pytest.approx(values["accuracy"])
        # what was counted can be counted again from what was saved
        right = [[completion["correct"] for completion in row["completions"]] for row in rows]
        assert np.mean(right) == pytest.approx(values["accuracy"]) and {len(row) for row in right} == {k}
        parts = values["by_source"]
        assert list(parts) == ["small", "large"] and {part["num_questions"] for part in parts.values()} == {30}
        assert parts["small"]["accuracy"] == pytest.approx(np.mean(right[:30])) and parts["large"][
            "accuracy"
        ] == pytest.approx(np.mean(right[30:]))
        assert values["settings"] == {
            "max_tokens": 40,
            "temperature": 0.0 if k == 1 else 1.0,
            "verifier": "qwen_accuracy_reward",
            "seed": 0,
        }
        first = rows[0]["completions"][0]
        assert rows[0]["prompt"] == "1+8=" and rows[0]["gold"] == "9" and first["finish_reason"] in ("stop", "length")
        assert f"small  {parts['small']['accuracy']:.1%}" in result.stdout
    refused = run_python("tools/evaluate.py", *common, "--k", 4, "--temperature", 0)
    assert refused.returncode == 2 and "all equal" in refused.stderr


def answered(path, verifier, verdicts, texts=("17", "18", "about 18")):
    rows = [
        {
            "prompt": f"q{number}",
            "gold": "18",
            "source": "",
            **({"verifier": verifier} if verifier else {}),
            "completions": [{"text": text, "tokens": 2, "finish_reason": "stop", "correct": verdict}],
        }
        for number, (text, verdict) in enumerate(zip(texts, verdicts, strict=True))
    ]
    path.parent.mkdir(exist_ok=True)
    return write_rows(path, rows)


def test_answers_are_compared_under_one_verifier(tmp_path):
    """Partial credit that counted as correct, against a strict verifier: nothing is compared until one judges both."""
    strict = answered(tmp_path / "a" / "eval_000009.jsonl", "accuracy_reward", [False, True, False])
    lax = answered(tmp_path / "b" / "eval_000009.jsonl", "mine.partial", [True, True, True])
    refused = run_python("tools/evaluate.py", "--compare", strict, lax)
    assert refused.returncode == 2 and "--verifier accuracy_reward judges both again" in refused.stderr
    again = run_python("tools/evaluate.py", "--verifier", "accuracy_reward", "--compare", strict, lax)
    assert again.returncode == 0 and "better on 0 questions, worse on 0" in again.stdout, again.stdout + again.stderr
    each = run_python("tools/evaluate.py", strict, lax, "--verifier", "qwen_accuracy_reward")
    assert each.stdout.count(", by qwen_accuracy_reward") == 2 and each.stdout.count("accuracy 66.7%") == 2
    kept = run_python("tools/evaluate.py", lax, "--output", tmp_path / "out.json")
    assert "accuracy 100.0%" in kept.stdout and "by mine.partial" in kept.stdout
    assert json.loads((tmp_path / "out.json").read_text())["verifier"] == "mine.partial"
    # the same name, and yet another verifier: step 0 tells
    answered(tmp_path / "a" / "eval_000000.jsonl", "accuracy_reward", [False, True, False])
    answered(tmp_path / "b" / "eval_000000.jsonl", "accuracy_reward", [False, True, True])
    other = answered(tmp_path / "c" / "eval_000009.jsonl", "accuracy_reward", [True, True, True])
    refused = run_python("tools/evaluate.py", "--compare", strict, other)
    assert refused.returncode == 2 and "2 equal answers" in refused.stderr
    answered(tmp_path / "b" / "eval_000009.jsonl", "accuracy_reward", [True] * 3, ("a", "b", "c"))
    refused = run_python("tools/evaluate.py", "--compare", strict, lax)
    assert refused.returncode == 2 and "1 equal answers, of these files or of step 0" in refused.stderr
    unsaid = answered(tmp_path / "c" / "old.jsonl", "", [False, True, True])
    assert "does not say which verifier" in run_python("tools/evaluate.py", "--compare", strict, unsaid).stdout


@pytest.fixture(scope="module")
def answers(quickstart_model, sums, tmp_path_factory):
    """A record of the model's answers, as a file and as rows."""
    folder = tmp_path_factory.mktemp("answers")
    given = ("--model", quickstart_model, "--dataset", sums, "--max_tokens", 40)
    made = run_python("tools/evaluate.py", *given, "--output", folder / "a.json")
    assert made.returncode == 0, made.stderr
    return folder / "a.completions.jsonl", read_jsonl(folder / "a.completions.jsonl")


def compare(*arguments):
    return run_python("tools/evaluate.py", "--compare", *arguments)


def test_a_model_is_compared_with_its_own_record(quickstart_model, sums, answers):
    same = compare(quickstart_model, answers[0], "--dataset", sums, "--max_tokens", 40)
    assert same.returncode == 0 and "better on 0 questions, worse on 0" in same.stdout, same.stdout + same.stderr
    assert "p = 1" in same.stdout


def test_compare_pairs_the_questions(answers, tmp_path):
    """A record against one in which some answers were changed."""
    base, rows = answers[0], copy.deepcopy(answers[1])
    wrong = [row for row in rows if not row["completions"][0]["correct"]][:6]
    right = [row for row in rows if row["completions"][0]["correct"]][:1]
    for row in wrong + right:
        row["completions"][0] |= {"correct": row in wrong, "text": "another answer"}
    better = write_rows(tmp_path / "b.completions.jsonl", rows)
    result = compare(base, better, "--output", tmp_path / "both.json")
    assert result.returncode == 0 and "better on 6 questions, worse on 1" in result.stdout, result.stderr
    comparison = json.loads((tmp_path / "both.json").read_text())["comparison"]
    assert comparison["p_value"] == pytest.approx(0.125) and comparison["difference"] == pytest.approx(5 / 60)


def test_records_that_cannot_be_compared_are_named(answers, tmp_path):
    base, rows = answers
    other = write_rows(tmp_path / "c.completions.jsonl", rows[1:])
    refused = compare(base, other)
    assert refused.returncode == 2 and "did not answer the same questions (60 and 59" in refused.stderr
    doubled = [{**row, "completions": row["completions"] * 2} for row in rows]
    twice = write_rows(tmp_path / "d.completions.jsonl", doubled)
    assert "A has 1 completions a question, B 2" in compare(base, twice).stdout
    bare = write_rows(tmp_path / "e.completions.jsonl", [{"prompt": "p", "completions": [{"correct": True}]}])
    for arguments, message in (
        ((bare, base), ":1: field 'gold' is missing"),
        ((base.with_name("a.json"), base), "give its answers, "),
        ((base, base, "--output", tmp_path), "--output"),
    ):
        refused = compare(*arguments)
        assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr


def test_a_verifier_that_only_fails_is_no_accuracy(quickstart_model, sums, tmp_path):
    (tmp_path / "broken.py").write_text(
        "def reward(completion, gold):\n"
        "    if '<answer>' not in completion.text:\n        raise KeyError('no such field')\n    return 1.0\n"
        "def never(completion, gold):\n    raise KeyError('no such field')\n"
    )
    settings = ("--model", quickstart_model, "--dataset", sums, "--max_tokens", 4, "--verifier", "broken.reward")
    few = run_python("tools/evaluate.py", *settings, "--max_prompts", 5, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (
        few.returncode == 2
        and "--verifier broken.reward: it failed on all 5 completions" in few.stderr
        and "accuracy" not in few.stdout
    ), few.stderr
    assert few.stderr.count("KeyError") == 1  # five failures, one line
    never = run_python("tools/evaluate.py", *settings[:-1], "broken.py:never", cwd=tmp_path)
    assert never.returncode == 2 and "fails on a made-up completion" in never.stderr  # before the model is loaded
    many = run_python("tools/evaluate.py", *settings, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert many.returncode == 2 and "failed on 20 completions in a row" in many.stderr, many.stderr
