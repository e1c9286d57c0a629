"""The numpy sampler by hand-derived values."""

import numpy as np
import pytest

from mindrlhf_lite.rollout.sampler import filter_logits, keep_top_k, keep_top_p, penalise_repetition, sample, uniforms
from mindrlhf_lite.types import SamplingParams

NONE, FREE = np.zeros((1, 4), bool), np.zeros(1, bool)
# probabilities 0.1, 0.4, 0.2, 0.3
LOGITS = np.log(np.array([[0.1, 0.4, 0.2, 0.3]], np.float32))


def probabilities(logits):
    p = np.exp(logits - logits.max())
    return p / p.sum()


def test_top_k():
    np.testing.assert_allclose(probabilities(keep_top_k(LOGITS, 2)), [[0, 4 / 7, 0, 3 / 7]], atol=1e-6)
    np.testing.assert_array_equal(keep_top_k(LOGITS, 9), LOGITS)


def test_top_p_keeps_the_token_that_reaches_it():
    np.testing.assert_allclose(probabilities(keep_top_p(LOGITS, 0.5)), [[0, 4 / 7, 0, 3 / 7]], atol=1e-6)  # 0.4 < 0.5: 0.3 too
    np.testing.assert_allclose(probabilities(keep_top_p(LOGITS, 0.35)), [[0, 1, 0, 0]], atol=1e-6)  # never empty
    np.testing.assert_allclose(probabilities(keep_top_p(LOGITS, 0.8)), [[0, 4 / 9, 2 / 9, 3 / 9]], atol=1e-6)


def test_repetition_penalty():
    logits, seen = np.array([[2.0, -2.0, 1.0, -1.0]]), np.array([[True, True, False, False]])
    np.testing.assert_allclose(penalise_repetition(logits, seen, 2.0), [[1.0, -4.0, 1.0, -1.0]])


def test_stop_tokens_are_masked_below_min_tokens():
    params = SamplingParams(5, min_tokens=2, stop_token_ids=(1,))
    assert filter_logits(LOGITS, NONE, np.array([True]), params)[0, 1] == -np.inf
    assert filter_logits(LOGITS, NONE, FREE, params)[0, 1] == LOGITS[0, 1]


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 0), (0.0999, 0), (0.11, 1), (0.49, 1), (0.51, 2), (0.69, 2), (0.71, 3), (1 - 2**-23, 3)])
def test_inverse_cdf(uniform, token):
    drawn = sample(LOGITS, np.float32([uniform]), NONE, FREE, SamplingParams(5))
    assert drawn.token_ids[0] == token
    assert drawn.logprobs[0] == drawn.policy_logprobs[0] == pytest.approx(float(LOGITS[0, token]), abs=1e-6)


def test_both_logprobs_with_filters():
    drawn = sample(LOGITS, np.float32([0.99]), NONE, FREE, SamplingParams(5, top_k=2))
    assert drawn.token_ids[0] == 3
    assert np.exp(drawn.logprobs[0]) == pytest.approx(3 / 7, rel=1e-5) and np.exp(drawn.policy_logprobs[0]) == pytest.approx(0.3, rel=1e-5)


def test_greedy_ignores_the_uniform():
    assert sample(LOGITS, np.float32([0.0]), NONE, FREE, SamplingParams(5, temperature=0, top_k=3)).token_ids[0] == 1


def test_uniforms_are_a_prefix_stable_function_of_seed_and_sample():
    np.testing.assert_array_equal(uniforms((1, 2, 3), 0, 5), uniforms((1, 2, 3), 0, 50)[:5])
    streams = {tuple(uniforms(seed, sample, 4)) for seed in ((0, 1, 2), (0, 2, 1), (1, 0, 2)) for sample in range(4)}
    assert len(streams) == 12
    values = uniforms((9,), 0, 100_000)
    assert values.min() >= 0 and values.max() <= 1 - 2**-23 and abs(values.mean() - 0.5) < 0.01


def test_bad_parameters_are_named_together():
    with pytest.raises(ValueError, match=r"min_tokens=9.*top_p=0.*repetition_penalty=0"):
        SamplingParams(5, min_tokens=9, top_p=0, repetition_penalty=0)
