"""Verifiers on the gold answers of real data sets, and on what only looks like an answer."""

import json
from pathlib import Path

import pytest
from rewards.labelled_answers import judge, rows
from rewards.one_answer import score

from mindrlhf_lite.rewards.agreement import same_answer
from mindrlhf_lite.rewards.golds import Asked, unsatisfied
from mindrlhf_lite.rewards.verifiers import find_verifier, verifier
from mindrlhf_lite.types import CompletionView, Outcome


def test_labelled_answers_made_of_real_golds(shared):
    """A small part of what docs/reliability.md reports."""
    found = [(row[4], judge(row), row) for _, row in rows(shared / "data", 8, seed=1)]
    paid, refused = (
        [row for is_right, verdict, row in found if is_right is label and verdict is not label]
        for label in (False, True)
    )
    assert len(found) > 3000
    assert len(paid) <= 0.001 * sum(not is_right for is_right, _, _ in found), paid[:5]
    assert len(refused) <= 0.01 * sum(is_right for is_right, _, _ in found), refused[:5]


def test_gsm8k_golds_verify_their_own_solutions(shared):
    """Every GSM8K solution is right by both number verifiers, and every one with a changed answer is wrong."""
    solutions = [json.loads(line)["answer"] for line in (shared / "data/gsm8k/test.jsonl").read_text().splitlines()]
    for solution in solutions:
        gold = solution.rpartition("####")[2].strip()
        for name in ("accuracy_reward", "qwen_accuracy_reward"):
            assert score(name, solution, gold).value == 1
            assert score(name, solution + "1", gold).value == 0
            assert score(name, f"The answer is ${gold}.", gold).value == 1


def test_golds_of_real_data_sets_agree_with_themselves(shared):
    math500 = [json.loads(line)["answer"] for line in (shared / "data/math500/math500.jsonl").read_text().splitlines()]
    assert not [gold for gold in math500 if not same_answer(gold, gold)]
    assert unsatisfied([Asked(gold) for gold in math500], ["r1_accuracy_reward"]) == {}


def test_golds_that_a_verifier_can_never_find_right():
    asked = ["qwen_accuracy_reward", "accuracy_reward", "format_reward"]
    golds = [Asked("x^2+1"), Asked("18"), Asked("18")]
    assert unsatisfied(golds, asked, workers=1) == {Asked("x^2+1"): ["accuracy_reward"]}


def test_golds_on_which_a_verifier_fails_say_how(monkeypatch):
    """It runs in a process of its own, with a limit, as in training."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    names = ["user_verifiers.hangs_on_bad", "user_verifiers.dies_on_bad", "user_verifiers.sees_its_question"]
    found = unsatisfied([Asked("1", "sums", "p"), Asked("bad", "sums", "p")], names, 0.3, workers=2)
    timeout, ended = found.pop(Asked("bad", "sums", "p"))
    assert "user_verifiers.hangs_on_bad (timeout: no score within 0.3 s)" in timeout
    assert "user_verifiers.dies_on_bad (exit: its process ended" in ended
    assert found == {}


@pytest.mark.parametrize(
    ("text", "is_paid"),
    [
        ("25 + 60 equals", False),  # found by a policy: SmolLM2 on sums, 2026-11-29
        ("25 + 60", False),
        ("60+25", False),
        ("The answer is 25 + 60.", False),
        ("\\boxed{25 + 60}", False),
        ("\\boxed{(25+60)\\text{ dollars}}", False),
        ("\\boxed{20+5+60}", False),  # a number of the question is left
        ("\\boxed{60 \\cdot 1 + 25}", False),
        ("\\boxed{\\frac{25+60}{1}}", False),
        ("#### 25+60", False),
        ("<think></think><answer>25 + 60</answer>", False),
        ("25 + 60 = 85", True),
        ("\\boxed{25 + 60 = 85}", True),
        ("\\boxed{85}", True),
        ("25 + 60 = 25 + 60", False),  # what a policy would come upon next
        ("25 + 60 = 60 + 25", False),
        ("x = 25 + 60", False),
        ("80+5", False),
        ("\\boxed{85 + 0}", False),
        ("\\boxed{100-15}", False),
        ("\\boxed{25.0+60.0}", False),
        ("\\boxed{\\frac{170}{2}}", True),
        ("\\boxed{\\sqrt{7225}}", True),
    ],
)
def test_arithmetic_that_is_left_to_the_reader_is_no_answer(text, is_paid):
    view = CompletionView(text, prompt="<|im_start|>user\nWhat is 25 + 60? Answer with the number only.<|im_end|>\n")
    assert (find_verifier("qwen_accuracy_reward").score(view, "85").value == 1.0) is is_paid
    if not is_paid:
        for name in ("accuracy_reward", "r1_accuracy_reward", "math_17k_acc", "acc", "acc_for_dapo"):
            verifier = find_verifier(name)
            assert verifier.score(view, "85").outcome is not Outcome.CORRECT, name


def test_a_formula_that_stands_in_the_question_is_no_answer():
    asked = CompletionView("\\boxed{2^{10} - 3^4}", prompt="Compute $2^{10} - 3^{4}$.")
    assert find_verifier("qwen_accuracy_reward").score(asked, "943").value == 0.0
    worked = CompletionView("\\boxed{2^{10} - 3^4}", prompt="How many strings are there?")
    assert find_verifier("qwen_accuracy_reward").score(worked, "943").value == 1.0


@pytest.mark.parametrize(
    ("question", "gold"),
    [
        ("Evaluate (1+2i)6-3i.", "6+9i"),
        ("Solve $2x^2 - 3x = 5$ for all 13 ...", r"\left( \frac{3}{2}, -13 \right)"),
        ("Which of 2, 3, 1/2, 1/3 are roots?", r"2, 3, \frac{1}{2}, \frac{1}{3}"),
        ("What is $2^{100} - 2$ in lowest terms?", "2^{100} - 2"),
        ("Expand 1 - 2x.", "1 - 2x"),
        ("Rationalise 10/sqrt 3.", r"\frac{10}{\sqrt{3}}"),
        ("Which day? 2025-07-04 or 2025-07-05?", "2025-07-04"),
        ("Who won 10-12?", "10-12"),
        ("Which is larger, 3/4 or 2/3?", r"\frac{3}{4}"),
        ("Factor 24 = 2 * 12.", r"2^3 \cdot 3"),
        ("Is -5 + 3 less than -1?", "-2"),
    ],
)
def test_a_gold_answer_given_back_is_right_whatever_was_asked(question, gold):
    view = CompletionView(f"\\boxed{{{gold}}}", prompt=question)
    assert find_verifier("qwen_accuracy_reward").score(view, gold).value == 1.0


def test_real_golds_given_back_beside_their_question(shared):
    """As with no question known: nothing is refused for it."""
    rows = [
        json.loads(line) for line in (shared / "data/math500/math500.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    score = find_verifier("qwen_accuracy_reward").score
    refused = [
        row["answer"]
        for row in rows
        if score(CompletionView(f"\\boxed{{{row['answer']}}}", prompt=row["problem"]), row["answer"]).value == 0
        and score(CompletionView(f"\\boxed{{{row['answer']}}}"), row["answer"]).value == 1
    ]
    assert not refused


def test_unknown_verifiers_say_what_exists():
    with pytest.raises(ValueError, match="accuracy_reward"):
        find_verifier("acuracy_reward")
    with pytest.raises(ValueError, match="cannot be imported"):
        find_verifier("no_such_module.reward")
    with pytest.raises(ValueError, match="two finite numbers"):
        verifier(minimum=1.0, maximum=1.0)
