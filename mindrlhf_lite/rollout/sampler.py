"""Sampling by one uniform number a token and the inverse CDF, and the random stream of a completion.

The plain case (temperature and the stop-token mask) runs inside the decode graph. Filters (top_k, top_p,
repetition_penalty) run here, vectorised over the batch in numpy: CPU has no fast in-graph sort.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mindrlhf_lite.types import SamplingParams

_BITS = 23  # uniforms are multiples of 2**-23 below 1, so u * total < total holds in float32


def uniforms(seed: tuple[int, ...], sample: int, count: int) -> np.ndarray:
    """The first `count` uniforms, float32 [count] in [0, 1 - 2**-23], of one completion's stream.

    A function of (seed, sample) alone (Philox counter generator keyed through SeedSequence).
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([*seed, sample])))
    return (generator.integers(0, 1 << _BITS, count) / np.float64(1 << _BITS)).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last dimension of [B, V]."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def penalise_repetition(logits: np.ndarray, seen: np.ndarray, penalty: float) -> np.ndarray:
    """Divides positive and multiplies negative logits of `seen` [B, V] bool tokens by `penalty` (CTRL, arXiv:1909.05858, sec. 4.1)."""
    return np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: np.ndarray, top_k: int) -> np.ndarray:
    """-inf below the k-th largest logit of each row; ties with it stay."""
    if top_k >= logits.shape[-1]:
        return logits
    threshold = np.partition(logits, -top_k, axis=-1)[:, -top_k, None]
    return np.where(logits < threshold, -np.inf, logits)


def keep_top_p(logits: np.ndarray, top_p: float) -> np.ndarray:
    """-inf outside the smallest set of most probable tokens whose probability reaches top_p (arXiv:1904.09751)."""
    order = np.argsort(-logits, axis=-1, kind="stable")
    ranked = np.take_along_axis(np.exp(log_softmax(logits)), order, -1)
    before = np.cumsum(ranked, -1) - ranked  # probability of all better tokens
    drop = np.zeros(logits.shape, bool)
    np.put_along_axis(drop, order, before >= top_p, -1)
    return np.where(drop, -np.inf, logits)


def filter_logits(logits: np.ndarray, seen: np.ndarray, forbid_stop: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Logits of the sampled distribution, in vLLM's order: stop mask, repetition penalty, temperature, top_k, top_p.

    Args: logits float32 [B, V]; seen bool [B, V]; forbid_stop bool [B]: rows still below min_tokens.
    """
    logits = logits.astype(np.float32, copy=True)
    if forbid_stop.any():
        logits[np.ix_(np.flatnonzero(forbid_stop), np.array(params.stop_token_ids, int))] = -np.inf
    if params.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, seen, params.repetition_penalty)
    if params.temperature > 0:
        logits = logits / np.float32(params.temperature)
    if params.top_k:
        logits = keep_top_k(logits, params.top_k)
    if params.top_p < 1.0:
        logits = keep_top_p(logits, params.top_p)
    return logits


@dataclass(frozen=True)
class Sampled:
    """One token a row."""

    token_ids: np.ndarray  # int [B]
    logprobs: np.ndarray  # float32 [B], under the filtered distribution
    policy_logprobs: np.ndarray  # float32 [B], under softmax(logits)


def sample(logits: np.ndarray, uniform: np.ndarray, seen: np.ndarray, forbid_stop: np.ndarray, params: SamplingParams) -> Sampled:
    """Draws one token a row: the first index whose cumulative probability exceeds `uniform` [B]; argmax at temperature 0."""
    filtered = log_softmax(filter_logits(logits, seen, forbid_stop, params))
    if params.temperature == 0:
        token_ids = filtered.argmax(-1)
    else:
        cumulative = np.cumsum(np.exp(filtered), -1, dtype=np.float32)
        token_ids = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
    rows = np.arange(len(logits))
    return Sampled(token_ids, filtered[rows, token_ids], log_softmax(logits)[rows, token_ids])
