"""What verifiers accept, reject and cannot read."""

import pytest

from mindrlhf_lite.rewards.extraction import has_think_answer_format, last_boxed, last_number, numbers
from mindrlhf_lite.rewards.verifiers import BUILT_IN, find_verifier


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is 18.", 18),
        ("18", 18),
        ("$1,234.50", 1234.5),
        ("1,234,567 people.", 1234567),
        ("-3", -3),
        ("x = -3.5.", -3.5),
        ("10-4", 4),
        ("5%", 5),
        ("3/4 cup", 0.75),
        (".5", 0.5),
        ("-$5", -5),
        ("$ 7", 7),
        ("12 apples and 3 pears", 3),
        ("2,3", 3),
        ("7, 8", 8),
        ("1e3", 1),
        ("a1", None),
        ("none", None),
        ("", None),
        ("5/0", 5),
        ("balance: -$5", -5),
        ("profit:\n-$20", -20),
    ],
)
def test_last_number(text, value):
    found = last_number(text)
    assert found is None if value is None else found == value


def test_all_numbers_in_order():
    assert numbers("First 3, then 4.5 and $1,000.") == [3, 4.5, 1000]


@pytest.mark.parametrize(
    ("text", "content"),
    [(r"\boxed{3}", "3"), (r"\boxed{1} or \boxed{\frac{1}{2}}", r"\frac{1}{2}"), (r"\boxed{5} and \boxed{unclosed", "5"), ("no box", None), (r"\boxed{}", "")],
)
def test_last_boxed(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("<think>a</think><answer>b</answer>", True),
        ("<think>a\nb</think>\n<answer>c</answer>\n", True),
        ("hi <think>a</think><answer>b</answer>", False),
        ("<think>a</think><answer>b</answer> bye", False),
        ("<answer>b</answer><think>a</think>", False),
        ("<think>a</think><think>c</think><answer>b</answer>", False),
        ("<think>a<answer>b</answer></think>", False),
        ("<think>a</think><answer>b", False),
        ("", False),
    ],
)
def test_format(text, is_whole):
    assert has_think_answer_format(text) is is_whole


@pytest.mark.parametrize(
    ("verifier", "text", "gold", "value", "outcome"),
    [
        ("accuracy_reward", "so it is 18.", "18", 1, "correct"),
        ("accuracy_reward", "18 of 20", "18", 0, "wrong"),
        ("accuracy_reward", "<think>20</think><answer>$18.00</answer> ok 3", "18", 1, "correct"),
        ("accuracy_reward", "I do not know", "18", 0, "unparsed"),
        ("accuracy_reward", "1,234 dollars", "1234", 1, "correct"),
        ("qwen_accuracy_reward", r"\boxed{18} not 19", "18", 1, "correct"),
        ("qwen_accuracy_reward", r"\boxed{\$1{,}000.}", "1000", 1, "correct"),
        ("qwen_accuracy_reward", r"\boxed{18\text{ dollars}}", "18", 1, "correct"),
        ("qwen_accuracy_reward", r"\boxed{50\%}", "50", 1, "correct"),
        ("qwen_accuracy_reward", r"\boxed{\dfrac{3}{4}}", "0.75", 1, "correct"),
        ("qwen_accuracy_reward", "no box but 18", "18", 1, "correct"),
        ("qwen_accuracy_reward", r"\boxed{}", "18", 0, "unparsed"),
        ("qwen_accuracy_reward", r"\boxed{blue}", "18", 0, "unparsed"),
        ("qwen_accuracy_reward", r"\boxed{7x+1}", "2x+1", 0, "wrong"),
        ("qwen_accuracy_reward", r"\boxed{2}", r"2\pi", 0, "wrong"),
        ("qwen_accuracy_reward", r"\boxed{2x + 1}", "2x+1", 1, "correct"),
        ("accuracy_reward", r"It costs $1{,}234.", "1234", 1, "correct"),
        ("r1_accuracy_reward", r"<think>x</think><answer>\boxed{4}</answer>", "4", 1, "correct"),
        ("r1_accuracy_reward", r"<think>x</think><answer>5</answer>", "4", -1, "wrong"),
        ("r1_accuracy_reward", r"\boxed{4}", "4", -1, "unparsed"),
        ("format_reward", "<think>a</think><answer>b</answer>", "", 1, "correct"),
        ("format_reward", "b", "", 0, "wrong"),
        ("math_reward", r"$\boxed{\frac{\sqrt{2}}{2}}$", r"\frac{1}{\sqrt{2}}", 1, "correct"),
        ("math_reward", r"\boxed{\{2, 1\}}", r"\{1,2\}", 1, "correct"),
        ("math_reward", r"\boxed{(0, 1]}", r"[0,1)", 0, "wrong"),
        ("math_reward", "no idea", "7", 0, "unparsed"),
    ],
)
def test_verifiers(verifier, text, gold, value, outcome):
    (score,) = BUILT_IN[verifier].function([text], [gold])
    assert (score.value, score.outcome.value) == (value, outcome)


def test_gsm8k_golds_verify_their_own_solutions(shared):
    """Every GSM8K solution is right by both number verifiers, and every one with a changed answer is wrong."""
    import json

    rows = [json.loads(line) for line in (shared / "data/gsm8k/test.jsonl").read_text().splitlines()]
    golds = [row["answer"].rpartition("####")[2].strip() for row in rows]
    for name in ("accuracy_reward", "qwen_accuracy_reward"):
        right = BUILT_IN[name].function([f"The answer is ${gold}." for gold in golds], golds)
        wrong = BUILT_IN[name].function([f"The answer is {gold}1." for gold in golds], golds)
        assert all(score.value == 1 for score in right)
        assert not any(score.value for score in wrong)


def test_unknown_verifiers_say_what_exists():
    with pytest.raises(ValueError, match="accuracy_reward"):
        find_verifier("acuracy_reward")
    with pytest.raises(ValueError, match="cannot be imported"):
        find_verifier("no_such_module.reward")
