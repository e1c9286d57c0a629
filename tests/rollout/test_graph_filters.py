"""Filters inside the decoding graph keep what those on the host keep, and the same tokens are drawn."""

import numpy as np
import pytest
from mindspore import Tensor, jit
from rollout.test_engine import engine, model  # noqa: F401  # fixtures

from mindrlhf_lite.models.packed_attention import MASKED
from mindrlhf_lite.rollout.graph_filters import FilteredLogits, Filters
from mindrlhf_lite.rollout.host_draw import TokenHistory, filtered_weights
from mindrlhf_lite.types import GenerateRequest, SamplingParams

FILTERS = [
    (0.1, 0, 1.0),
    (0.0, 7, 1.0),
    (0.0, 0, 0.6),
    (0.02, 300, 0.9),
    (0.0, 5000, 0.99),  # more than there are
]


def kept_on_the_host(row, filters):
    params = SamplingParams(4, min_p=filters.min_p, top_k=filters.top_k, top_p=filters.top_p)
    tokens, weights = filtered_weights(row, TokenHistory(()), params)
    tokens = np.arange(len(row)) if tokens is None else tokens
    return tokens[weights > 0].tolist()


def kept_in_the_graph(logits, filters):
    found = jit(FilteredLogits(filters).construct)(Tensor(logits)).asnumpy()
    kept = found > MASKED / 2
    assert (found[kept] == logits[kept]).all()
    return [np.flatnonzero(row).tolist() for row in kept]


@pytest.mark.parametrize("filters", [Filters(*each) for each in FILTERS], ids=str)
def test_what_is_kept(filters):
    spread = np.repeat([[0.5], [3.0]], 8, 0)
    logits = (np.random.default_rng(0).standard_normal((16, 1000)) * spread).astype(np.float32)
    logits[:, 500:510] = MASKED
    assert kept_in_the_graph(logits, filters) == [kept_on_the_host(row, filters) for row in logits]


@pytest.mark.parametrize("filters", [Filters(0.0, 3, 1.0), Filters(0.0, 0, 0.5), Filters(0.3, 0, 0.7)], ids=str)
def test_among_equal_ones_too(filters):
    """Logits of two-byte types are often equal: with top-k all of them stay, with top-p the first."""
    logits = np.random.default_rng(1).integers(-3, 3, (16, 50)).astype(np.float32)
    assert kept_in_the_graph(logits, filters) == [kept_on_the_host(row, filters) for row in logits]


@pytest.mark.parametrize(
    "more",
    [
        {"top_p": 0.7, "temperature": 0.8, "min_tokens": 3, "stop_token_ids": (1, 2)},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.01, "temperature": 1.3, "reports_tempered_policy": True},
        {"top_k": 4, "temperature": 0.0},
    ],
    ids=str,
)
def test_the_same_tokens_are_drawn(engine, more):  # noqa: F811
    requests = [GenerateRequest((3, 4, 5 + number), 4, (0, 0, number)) for number in range(4)]
    sampling, found = SamplingParams(12, **more), []
    try:
        for engine.filters_in_graph in (False, True):
            groups = engine.generate(requests, sampling)
            found.append([completion for group in groups for completion in group])
    finally:
        engine.filters_in_graph = False
    for on_host, in_graph in zip(*found, strict=True):
        assert on_host.token_ids == in_graph.token_ids
        np.testing.assert_allclose(on_host.logprobs, in_graph.logprobs, atol=1e-5)
        np.testing.assert_allclose(on_host.engine_logprobs, in_graph.engine_logprobs, atol=1e-5)


def test_what_needs_the_tokens_so_far_stays_on_the_host():
    assert Filters.of(SamplingParams(4, top_k=5)) == Filters(0.0, 5, 1.0)
    assert Filters.of(SamplingParams(4)) is None
    assert Filters.of(SamplingParams(4, top_k=5, repetition_penalty=1.1)) is None
    assert Filters.of(SamplingParams(4, logit_bias=((3, 1.0),))) is None
