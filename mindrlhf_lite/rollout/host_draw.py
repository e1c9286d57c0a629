"""Sampling by one uniform number a token and the inverse CDF, and the random stream of a completion.

The plain case (temperature and the stop-token mask) runs inside the decode graphs. Everything else runs here: a row at
a time, so that a vocabulary's worth of numbers stays in the cache, rows in parallel threads (numpy releases the
interpreter lock), and penalties and biases touch only the tokens they name.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mindrlhf_lite.types import SamplingParams

_BITS = 23  # uniforms are multiples of 2**-23 below 1, so u * total < total holds in float32
_BINS = (
    0x3F800000 >> 16
) + 1  # of the histogram of probabilities over the largest one's: up to the upper half of 1.0's bits
_UPPER_HALF = 1 if sys.byteorder == "little" else 0
_PARALLEL_LOGITS = 1 << 20  # fewer logits than this are not worth a second thread


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


class TokenHistory:
    """The tokens of one sequence so far, for penalties and min_tokens."""

    def __init__(self, prompt_ids: Sequence[int]):
        self._prompt_ids, self._counts, self._read = prompt_ids, Counter[int](), set[int]()
        self.num_generated = 0  # in the turn under way

    def append(self, token: int) -> None:
        self._counts[token] += 1
        self.num_generated += 1

    def read(self, token: int) -> None:
        """A token that was not generated, between two turns: as one of the prompt."""
        self._read.add(token)
        self.num_generated = 0

    def generated_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """(distinct generated tokens, how often each was generated)."""
        size = len(self._counts)
        return np.fromiter(self._counts.keys(), np.int64, size), np.fromiter(self._counts.values(), np.float32, size)

    def seen(self) -> np.ndarray:
        """Distinct tokens of prompt and completion."""
        prompt = np.union1d(self._prompt, list(self._read)) if self._read else self._prompt
        return np.union1d(prompt, self.generated_counts()[0]).astype(np.int64)

    @cached_property
    def _prompt(self) -> np.ndarray:
        return np.unique(np.asarray(self._prompt_ids, np.int64))


def penalise(logits: np.ndarray, history: TokenHistory, params: SamplingParams) -> np.ndarray:
    """Logits [V] after everything that changes single tokens, in vLLM's order; a copy where anything changes.

    logit_bias is added; stop tokens are forbidden below min_tokens; repetition_penalty divides positive and multiplies
    negative logits of tokens seen in prompt or completion (CTRL, arXiv:1909.05858, sec. 4.1); frequency_penalty * count
    and presence_penalty are subtracted from generated tokens.
    """
    below_minimum = history.num_generated < params.min_tokens
    has_penalties = params.repetition_penalty != 1.0 or params.frequency_penalty or params.presence_penalty
    if not (params.logit_bias or below_minimum or has_penalties):
        return logits
    logits = logits.copy()
    if params.logit_bias:
        for token, bias in params.logit_bias:
            logits[token] += np.float32(bias)
    if below_minimum:
        logits[list(params.stop_token_ids)] = -np.inf
    if params.repetition_penalty != 1.0:
        seen = history.seen()
        values, factor = logits[seen], np.float32(params.repetition_penalty)
        logits[seen] = np.where(values > 0, values / factor, values * factor)
    if params.frequency_penalty or params.presence_penalty:
        tokens, counts = history.generated_counts()
        logits[tokens] -= np.float32(params.frequency_penalty) * counts + np.float32(params.presence_penalty)
    return logits


def _bins(weights: np.ndarray) -> np.ndarray:
    """Places [N] of weights in [0, 1] in a histogram, larger ones in higher bins: the upper half of a float32, 128 bins
    an octave.
    """
    return weights.view(np.uint16)[_UPPER_HALF::2].astype(np.intp)  # the type that bincount takes without a copy


def keep_top_k(shifted: np.ndarray, weights: np.ndarray, top_k: int) -> np.ndarray:
    """Indices, ascending, of the k largest of [N] logits, of which the largest is 0; ties with the k-th stay. weights =
    exp(shifted).
    """
    if top_k >= len(shifted):
        return np.arange(len(shifted))
    bins = _bins(weights)
    at_least = np.cumsum(np.bincount(bins, minlength=_BINS)[::-1])[::-1]  # how many lie in this bin or above
    candidates = np.flatnonzero(bins >= np.flatnonzero(at_least >= top_k)[-1])
    values = shifted[candidates]
    return candidates[values >= np.partition(values, -top_k)[-top_k]]


def keep_top_p(shifted: np.ndarray, weights: np.ndarray, top_p: float) -> np.ndarray:
    """Mask [N] of the smallest set of the most probable of [N] tokens that reaches `top_p` of their probability
    (arXiv:1904.09751); logits, of which the largest is 0, and weights = exp(shifted). Among equal ones the lower index
    comes first. A histogram finds the few that have to be sorted.
    """
    bins = _bins(weights)
    from_above = np.cumsum(np.bincount(bins, weights, _BINS)[::-1])[::-1]  # the mass of this bin and those above
    needed = top_p * from_above[0]
    last = int(np.flatnonzero(from_above >= needed)[-1])
    contested = np.flatnonzero(bins == last)
    order = contested[np.argsort(-shifted[contested], kind="stable")]
    above = from_above[last + 1] if last + 1 < _BINS else 0.0
    before = np.cumsum(weights[order], dtype=np.float64) - weights[order] + above
    is_kept = bins > last
    is_kept[order[before < needed]] = True
    return is_kept


@dataclass
class Draw:
    """What one sequence asks of the sampler for its next token."""

    params: SamplingParams
    history: TokenHistory
    uniform: float


@dataclass(frozen=True)
class Sampled:
    """One token a row."""

    token_ids: np.ndarray  # int [B]
    logprobs: np.ndarray  # float32 [B], under the filtered distribution
    engine_logprobs: np.ndarray  # float32 [B], under softmax(logits / policy_temperature)


def filtered_weights(
    logits: np.ndarray, history: TokenHistory, params: SamplingParams
) -> tuple[np.ndarray | None, np.ndarray]:
    """The distribution that is sampled from: (token ids ascending, or None for all; their probabilities times any
    constant, 0 where filtered out), in vLLM's
    order: `penalise`, temperature, min_p, top_k, top_p.
    """
    # few large temporary arrays: their pages cost more than the arithmetic
    logits = penalise(logits, history, params)
    shifted, tokens = logits - logits.max(), None
    if params.temperature not in (0.0, 1.0):
        shifted /= np.float32(params.temperature)
    weights = np.exp(shifted)

    def keep(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return indices if tokens is None else tokens[indices], shifted[indices], weights[indices]

    if params.min_p:
        tokens, shifted, weights = keep(np.flatnonzero(weights >= np.float32(params.min_p)))
    if 0 < params.top_k < len(shifted):
        tokens, shifted, weights = keep(keep_top_k(shifted, weights, params.top_k))
    if params.top_p < 1.0:
        weights *= keep_top_p(shifted, weights, params.top_p)  # a nucleus is often most of them: cheaper than indices
    return tokens, weights


def _sample_row(logits: np.ndarray, draw: Draw) -> tuple[int, float, float]:
    largest = logits.max()
    if not np.isfinite(largest):
        return 0, np.nan, np.nan
    tokens, weights = filtered_weights(logits, draw.history, draw.params)
    if draw.params.temperature == 0:
        place, total = int(weights.argmax()), weights.sum()
    else:
        cumulative = np.cumsum(weights)
        total = cumulative[-1]
        place = int(np.searchsorted(cumulative, np.float32(draw.uniform) * total, "right"))
    token = place if tokens is None else int(tokens[place])
    shifted = logits - largest
    if draw.params.policy_temperature != 1.0:
        shifted /= np.float32(draw.params.policy_temperature)
    policy = float(shifted[token]) - float(np.log(np.exp(shifted, out=shifted).sum()))
    return token, float(np.log(weights[place] / total)), policy


_pool: ThreadPoolExecutor | None = None
_MOST_THREADS = 64


def allowed_threads() -> int | None:
    """OMP_NUM_THREADS as OpenMP reads it: of a list ("4,2", by level of nesting) the first number counts; what is empty
    or no positive number is as if it were not set: None.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdecimal() and 0 < len(first) < 10 and int(first) > 0 else None


def sample(logits: np.ndarray, draws: Sequence[Draw]) -> Sampled:
    """Draws one token a row of logits float32 [B, V]: the first kept token whose cumulative probability exceeds its
    uniform; the most probable one at temperature 0.
    """
    global _pool
    threads = min(len(os.sched_getaffinity(0)), allowed_threads() or _MOST_THREADS)
    if logits.size < _PARALLEL_LOGITS or threads < 2:
        rows = [_sample_row(row, draw) for row, draw in zip(logits, draws, strict=True)]
    else:
        _pool = _pool or ThreadPoolExecutor(threads, thread_name_prefix="sampler")
        rows = list(_pool.map(_sample_row, logits, draws))
    token_ids, logprobs, engine_logprobs = zip(*rows, strict=True)
    return Sampled(np.array(token_ids), np.array(logprobs, np.float32), np.array(engine_logprobs, np.float32))
