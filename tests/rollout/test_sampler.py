"""The numpy sampler by hand-derived values, and against a plain one that sorts the whole vocabulary."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindrlhf_lite.rollout.host_draw import (
    Draw,
    TokenHistory,
    filtered_weights,
    keep_top_k,
    keep_top_p,
    log_softmax,
    penalise,
    sample,
    uniforms,
)
from mindrlhf_lite.types import SamplingParams

# probabilities 0.1, 0.4, 0.2, 0.3
P = np.array([0.1, 0.4, 0.2, 0.3], np.float32)
LOGITS = np.log(P)
SHIFTED = LOGITS - LOGITS.max()


def history(prompt=(), generated=()):
    result = TokenHistory(prompt)
    for token in generated:
        result.append(token)
    return result


def draw(logits, uniform, params, past=None):
    drawn = sample(logits[None], [Draw(params, past or history(), uniform)])
    return drawn.token_ids[0], drawn.logprobs[0], drawn.engine_logprobs[0]


def top_k(shifted, k):
    return keep_top_k(shifted, np.exp(shifted), k)


def top_p(shifted, p):
    return np.flatnonzero(keep_top_p(shifted, np.exp(shifted), p))


def test_top_k():
    assert list(top_k(SHIFTED, 2)) == [1, 3]
    assert list(top_k(SHIFTED, 9)) == [0, 1, 2, 3]
    assert list(top_k(np.float32([-1, 0, 0, -2]), 1)) == [1, 2]  # ties stay
    assert list(top_k(np.float32([-50, 0, -40, -np.inf]), 3)) == [0, 1, 2]  # all of them in the last bin


def test_top_p_keeps_the_token_that_reaches_it():
    assert list(top_p(SHIFTED, 0.5)) == [1, 3]  # 0.4 < 0.5: 0.3 too
    assert list(top_p(SHIFTED, 0.35)) == [1]  # never empty
    assert list(top_p(SHIFTED, 0.8)) == [1, 2, 3]
    assert list(top_p(np.zeros(4, np.float32), 0.6)) == [0, 1, 2]  # equals: the lower index first
    assert list(top_p(np.float32([-np.inf, 0, -np.inf, -np.inf]), 0.99)) == [1]


def test_min_p():
    # 0.25 of the largest 0.4 is 0.1, which stays; 0.3 of it is 0.12
    assert list(filtered_weights(LOGITS, history(), SamplingParams(5, min_p=0.2499))[0]) == [0, 1, 2, 3]
    tokens, weights = filtered_weights(LOGITS, history(), SamplingParams(5, min_p=0.3))
    assert list(tokens) == [1, 2, 3]
    np.testing.assert_allclose(weights / weights.sum(), [4 / 9, 2 / 9, 3 / 9], rtol=1e-6)


def test_penalties():
    logits, past = np.float32([2.0, -2.0, 1.0, -1.0, 3.0]), history([0], [1, 2, 2])
    repeated = penalise(logits, past, SamplingParams(5, repetition_penalty=2.0))
    np.testing.assert_allclose(repeated, [1.0, -4.0, 0.5, -1.0, 3.0])  # prompt and completion
    counted = penalise(logits, past, SamplingParams(5, presence_penalty=0.5, frequency_penalty=0.25))
    np.testing.assert_allclose(counted, [2.0, -2.75, 0.0, -1.0, 3.0])  # completion only: 0.5 + 0.25 * count
    biased = penalise(logits, past, SamplingParams(5, logit_bias=((4, -1.5), (0, 1.0))))
    np.testing.assert_allclose(biased, [3.0, -2.0, 1.0, -1.0, 1.5])
    np.testing.assert_array_equal(logits, [2.0, -2.0, 1.0, -1.0, 3.0])  # not in place


def test_stop_tokens_are_masked_below_min_tokens():
    params = SamplingParams(5, min_tokens=2, stop_token_ids=(1,))
    assert penalise(LOGITS, history((), [3]), params)[1] == -np.inf
    assert penalise(LOGITS, history((), [3, 3]), params)[1] == LOGITS[1]


@pytest.mark.parametrize(
    ("uniform", "token"),
    [(0.0, 0), (0.0999, 0), (0.11, 1), (0.49, 1), (0.51, 2), (0.69, 2), (0.71, 3), (1 - 2**-23, 3)],
)
def test_inverse_cdf(uniform, token):
    chosen, logprob, engine_logprob = draw(LOGITS, uniform, SamplingParams(5))
    assert chosen == token
    assert logprob == pytest.approx(float(LOGITS[token]), abs=1e-6) and engine_logprob == pytest.approx(
        float(LOGITS[token]), abs=1e-6
    )


def test_both_logprobs_with_filters():
    token, logprob, engine_logprob = draw(LOGITS, 0.99, SamplingParams(5, top_k=2))
    assert token == 3
    assert np.exp(logprob) == pytest.approx(3 / 7, rel=1e-5) and np.exp(engine_logprob) == pytest.approx(0.3, rel=1e-5)


def test_greedy_ignores_the_uniform_and_obeys_penalties():
    assert draw(LOGITS, 0.0, SamplingParams(5, temperature=0, top_k=3))[0] == 1
    assert draw(LOGITS, 0.0, SamplingParams(5, temperature=0, presence_penalty=1.0), history((), [1]))[0] == 3


def test_broken_logits_are_reported_not_drawn_from():
    token, _, engine_logprob = draw(np.float32([1.0, np.nan, 0.0]), 0.5, SamplingParams(5, top_p=0.5))
    assert np.isnan(engine_logprob) and token == 0


def plain_distribution(logits, past, params):
    """The same order of operations by sorting everything, in float64."""
    logits = penalise(logits, past, params).astype(np.float64) / (params.temperature or 1.0)
    p = np.exp(logits - logits.max())
    p[p < params.min_p] = 0
    if params.top_k and params.top_k < len(p):
        p[p < np.sort(p)[-params.top_k]] = 0
    order = np.argsort(-p, kind="stable")
    cumulative = np.cumsum(p[order]) / p.sum()
    if params.top_p < 1:
        p[order[1:][cumulative[:-1] >= params.top_p]] = 0
    return p / p.sum()


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 10**6),
    st.integers(2, 3000),
    st.sampled_from([0.01, 1.0, 8.0]),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.sampled_from([0, 1, 7, 200]),
    st.sampled_from([0.1, 0.5, 0.9, 0.999, 1.0]),
    st.sampled_from([0.6, 1.0, 1.7]),
)
def test_against_sorting_everything(seed, size, spread, min_p, top_k, top_p, temperature):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, size).astype(np.float32)
    past = history(rng.integers(0, size, 5), rng.integers(0, size, 9))
    params = SamplingParams(
        20,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=1.2,
        frequency_penalty=0.1,
    )
    expected = plain_distribution(logits, past, params)
    tokens, weights = filtered_weights(logits, past, params)
    actual = np.zeros(size)
    actual[slice(None) if tokens is None else tokens] = weights / weights.sum()
    # float32 may decide otherwise about a token at the very edge of a filter: its probability is all that may differ
    edge = np.flatnonzero((actual > 0) != (expected > 0))
    assert len(edge) <= 1
    np.testing.assert_allclose(
        actual, expected, rtol=1e-4, atol=expected[edge].max(initial=0) + actual[edge].max(initial=0) + 1e-9
    )


def test_many_rows_in_threads_are_the_rows_alone(monkeypatch):
    monkeypatch.setattr("mindrlhf_lite.rollout.host_draw._PARALLEL_LOGITS", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    rng = np.random.default_rng(0)
    logits, params = (
        rng.normal(0, 2, (17, 500)).astype(np.float32),
        SamplingParams(9, top_p=0.8, top_k=50, frequency_penalty=0.3),
    )
    draws = [Draw(params, history([1], rng.integers(0, 500, 4)), float(u)) for u in rng.random(17)]
    together = sample(logits, draws)
    for row, one in enumerate(draws):
        alone = sample(logits[row : row + 1], [one])
        assert alone.token_ids[0] == together.token_ids[row] and alone.logprobs[0] == together.logprobs[row]
        assert together.engine_logprobs[row] == pytest.approx(
            log_softmax(logits[row])[together.token_ids[row]], abs=1e-5
        )


def test_uniforms_are_a_prefix_stable_function_of_seed_and_sample():
    np.testing.assert_array_equal(uniforms((1, 2, 3), 0, 5), uniforms((1, 2, 3), 0, 50)[:5])
    streams = {tuple(uniforms(seed, sample, 4)) for seed in ((0, 1, 2), (0, 2, 1), (1, 0, 2)) for sample in range(4)}
    assert len(streams) == 12
    values = uniforms((9,), 0, 100_000)
    assert values.min() >= 0 and values.max() <= 1 - 2**-23 and abs(values.mean() - 0.5) < 0.01


def test_bad_parameters_are_named_together():
    with pytest.raises(ValueError, match=r"min_tokens=9.*top_p=0.*min_p=2.*repetition_penalty=0"):
        SamplingParams(5, min_tokens=9, top_p=0, min_p=2, repetition_penalty=0)
