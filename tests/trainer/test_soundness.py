"""Which weights are sound."""

import numpy as np
import pytest

from mindrlhf_lite.trainer.soundness import is_sound, largest_of, magnitude, problem_of


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_the_largest_absolute_value(dtype):
    values = np.random.default_rng(0).standard_normal((300, 301)).astype(dtype)  # more than a block
    assert magnitude(values) == np.abs(values).max() and magnitude(values.T) == np.abs(values).max()
    values[299, 300] = -40
    assert magnitude(values) == 40.0
    for broken in (np.nan, -np.nan, np.inf, -np.inf):
        values[7, 7] = broken
        assert magnitude(values) == np.inf


def test_nothing_and_zeros():
    assert magnitude(np.zeros((0, 3), np.float32)) == magnitude(np.float32([0.0, -0.0])) == largest_of([]) == 0.0


def test_a_limit_of_zero_asks_for_finite_weights_only():
    assert is_sound(10.0, 10.0) and not is_sound(10.1, 10.0) and is_sound(1e38, 0) and not is_sound(np.inf, 0)


def test_a_problem_names_the_tensor_its_value_and_the_limit():
    good, large = np.float32([[1, -2]]), np.float32([1e38])
    assert problem_of({"a": good}, {"adam_m.a": large}, 1e4) == ""  # moments need only be finite
    assert (
        problem_of({"a": good, "b": large}, {}, 1e4) == "b reaches 1e+38, over monitor_config.health.max_weight=10000"
    )
    assert (
        problem_of({"a": good}, {"adam_v.a": np.float32([np.nan])}, 1e4) == "adam_v.a is not finite (NaN or infinity)"
    )
