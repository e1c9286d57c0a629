"""What is added to the verifiers' rewards."""

import numpy as np
import pytest

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.shaping import RewardShaping
from mindrlhf_lite.types import CompletionView, FinishReason

SHORT, LONG = CompletionView("a", 4), CompletionView("a", 9)
CUT = CompletionView("a", 10, FinishReason.LENGTH)


def shaped(**settings):
    return RewardShaping(10, **settings).shaped(np.array([1.0, 1.0, 0.5]), [SHORT, LONG, CUT]).tolist()


def test_nothing_is_added_by_default():
    assert shaped() == [1.0, 1.0, 0.5]


def test_overlong_and_unfinished_completions_are_punished():
    # the last 2 of 10 tokens: half of the penalty at 9, all of it at 10
    assert shaped(overlong_buffer=2, overlong_penalty=0.5) == [1.0, 0.75, 0.0]
    assert shaped(missing_eos_penalty=2.0) == [1.0, 1.0, -1.5]


def test_what_is_read_between_turns_counts_for_the_limit_that_holds_it_too():
    """Five tokens written, four read: as far from max_tokens as nine written."""
    shaping = RewardShaping(10, overlong_buffer=2, overlong_penalty=0.5)
    assert shaping.shaped(np.array([1.0]), [CompletionView("a", 5, num_read=4)]).tolist() == [0.75]


def test_a_users_function_has_the_last_word():
    assert shaped(missing_eos_penalty=2.0, function="user_verifiers.adds_tokens") == [5.0, 10.0, 8.5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("user_verifiers.shapes_to_nan", "returned nan for reward 1"),
        (
            "user_verifiers.cannot_shape",
            "ZeroDivisionError: float division by zero, on a completion of 4 tokens with reward 1",
        ),
    ],
)
def test_a_users_function_that_fails_is_named(name, message):
    with pytest.raises(UserError, match=f"shaping_function={name}: {message}"):
        shaped(function=name)


def test_a_shaped_reward_that_overflows_is_refused():
    with pytest.raises(UserError, match=r"missing_eos_penalty: a completion's reward is -1e\+300 with it.* lower them"):
        shaped(missing_eos_penalty=1e300)
    with pytest.raises(
        UserError, match=r"shaping_function=user_verifiers.shapes_to_1e300: a completion's reward is 1e\+"
    ):
        shaped(function="user_verifiers.shapes_to_1e300")
