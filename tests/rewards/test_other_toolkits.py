"""Verifiers of MindRLHF and MindSpeed-RL: values by hand, from what their names mean there."""

import pytest

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.verifiers import BUILT_IN, find_verifier
from mindrlhf_lite.types import CompletionView, Outcome

RIGHT = "<think>9 + 9</think><answer>\\boxed{18}</answer>"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("math_17k_acc", "so \\boxed{18}", 1.0),
        ("math_17k_acc", "so \\boxed{17}", 0.0),
        ("math_17k_acc", "the answer is 18", 0.0),  # without a box
        ("acc", "so \\boxed{18}", 1.0),
        ("acc", "so \\boxed{17}", -0.5),
        ("acc", "the answer is 18", -1.0),
        ("base_acc", RIGHT, 1.0),
        ("base_acc", RIGHT.replace("18", "17"), 0.0),
        ("base_acc", "\\boxed{18}", 0.0),  # without tags
        ("acc_for_dapo", "9 + 9\nAnswer: 18", 1.0),
        ("acc_for_dapo", "9 + 9\nANSWER: $18$.", 1.0),
        ("acc_for_dapo", "9 + 9\nAnswer: 17", -1.0),
        ("acc_for_dapo", "Answer: 18" + 300 * " .", -1.0),  # not among the last 300 characters
        ("math_dapo_reward", "\\boxed{18}", -1.0),
        ("format", RIGHT, 1.0),
        ("format", "well, " + RIGHT, 0.0),
        ("format", "<think>a</think>b<answer>c</answer>", 0.0),
        ("strict_format", RIGHT, 1.0),
        ("strict_format", RIGHT + RIGHT, -0.5),
        ("strict_format", "<think>9</think><answer>18</answer>", -0.5),  # without a box
        ("strict_format", "<think>\\boxed{18}</think><answer>18</answer>", -0.5),  # in the wrong place
        ("step", "Step 1: a\nStep 2: b\nStep 3: c\nStep 4: d", 1.0),
        ("reasoning_steps", "First, a. Finally, b.", 2 / 3),
        ("step", "nothing", 0.0),
    ],
)
def test_values(name, text, value):
    assert find_verifier(name).score(CompletionView(text), "18").value == pytest.approx(value)


def test_a_wrong_answer_is_not_an_unread_one():
    assert find_verifier("acc").score(CompletionView("\\boxed{17}"), "18").outcome is Outcome.WRONG
    assert find_verifier("acc").score(CompletionView("17"), "18").outcome is Outcome.UNPARSED
    assert not BUILT_IN["strict_format"].judges_answer


def test_what_is_not_there_names_the_nearest():
    with pytest.raises(UserError, match="nearest is qwen_accuracy_reward"):
        find_verifier("base_deepscaler_reward")
