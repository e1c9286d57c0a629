"""Attention over packed sequences by Ascend's flash attention of variable length (its layout TND): every segment of the
stream brings its queries, and the keys of its prompt and its own up to its last query. Its last query sees all of them,
the one before all but one, and so on; so there is no mask to make or to keep. A prompt's keys are repeated for each of
its completions: about twice the keys of the stream for a group of eight, where blocks of queries that gather their own
keys bring together dozens of times as many.

Compiled by the dry run; not run here.
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import FlashAttentionScore, FlashAttentionScoreGrad

from mindrlhf_lite.models.host_numbers import HostNumbers
from mindrlhf_lite.models.precision import Precision, full, to_compute

_FEWEST = 16  # segments that a graph is made for
_TOKENS_OF_SEGMENT = 512  # a graph takes longer to compile and to start with the number of its segments
_CAUSAL_SIZE = 2048  # of the mask that the kernel takes for all lengths
_UP_TO_LAST = 3  # sparse mode: the last query of a segment sees all its keys


def flash_spans(segments: np.ndarray, prompts: np.ndarray, own: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the kernel takes of a stream: (places of the keys in the stream, int32 [K]; where each segment's queries
    end, among the queries of `own`, int64; where its keys end, among those, int64). Padding sees itself. What only
    fills up the sizes, of which graphs are made for few, has the place behind the stream and no queries.

    Args: segments, prompts int32 [T]: of a token, its segment and its prompt's; below 0: padding; own: the tokens whose
    queries these are.

    Example: a prompt of 3 with completions of 2 and 1: queries 3, 2, 1; keys 3, 5, 4
    """
    first = {int(segment): int(place) for place, segment in reversed(list(enumerate(segments)))}
    after = {int(segment): int(place) + 1 for place, segment in enumerate(segments)}
    numbers = segments[own]
    borders = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist(), len(numbers)]
    keys, counts, queries = [], [], np.diff(borders).tolist()
    for start, stop in zip(borders, borders[1:]):
        segment, prompt = int(numbers[start]), int(prompts[own][start])
        begin = own.start + start if segment < 0 else first[segment]
        places = [np.arange(begin, own.start + stop)]
        if segment >= 0 and prompt not in (segment, -1):
            places.insert(0, np.arange(first[prompt], after[prompt]))
        keys += places
        counts.append(sum(map(len, places)))
    slots = _round_up_segments(len(counts) + 1, len(numbers))
    fillers = slots - len(counts)
    size = _round_up_keys(sum(counts) + fillers, len(numbers))
    counts += [1] * (fillers - 1) + [size - sum(counts) - fillers + 1]
    queries += [0] * fillers
    keys.append(np.full(size - sum(map(len, keys)), len(segments)))
    query_ends, key_ends = (np.cumsum(each, dtype=np.int64) for each in (queries, counts))
    return np.concatenate(keys).astype(np.int32), query_ends, key_ends


def _round_up_segments(count: int, tokens: int) -> int:
    slots = _FEWEST
    while slots < max(count, tokens // _TOKENS_OF_SEGMENT):
        slots *= 2
    return slots


def _round_up_keys(count: int, tokens: int) -> int:
    """To 4, 5 or 6 times a power of two quarters of the tokens."""
    unit = max(1, tokens // 4)
    sizes = (unit * factor << power for power in range(40) for factor in (4, 5, 6))
    return next(size for size in sizes if size >= count)


def _causal_mask() -> Tensor:
    return Tensor(np.triu(np.ones((_CAUSAL_SIZE, _CAUSAL_SIZE), np.uint8), 1))


def _chosen(x: Tensor, places: Tensor) -> Tensor:
    """Keys or values [T, KV, D] of the segments; of what fills up, any."""
    return ops.gather(x, ops.minimum(places, x.shape[0] - 1), 0)


class FlashAttention(nn.Cell):
    """Differentiated as `KnownFlashAttention`."""

    def __init__(self, precision: Precision, num_heads: int):
        super().__init__(auto_prefix=False)
        self.flash = FlashAttentionScore(num_heads, input_layout="TND", sparse_mode=_UP_TO_LAST, next_tokens=0)
        self.causal, self.numbers = _causal_mask(), HostNumbers()

    def construct(
        self, query: Tensor, key: Tensor, value: Tensor, places: Tensor, query_ends: Tensor, key_ends: Tensor
    ) -> tuple:
        """Args: query [T, heads, D], already scaled; key, value [stream, KV, D]; the others: of `flash_spans`.

        Returns: ([T, heads, D], the softmax's maxima and sums [T, heads, 8]).
        """
        keys, values = _chosen(key, places), _chosen(value, places)
        maxima, sums, _, attended = self.flash(
            *(query, keys, values, None, None, None, self.causal, None),
            *(self.numbers(query_ends), self.numbers(key_ends)),
        )
        return attended, maxima, sums


class KnownFlashAttention(nn.Cell):
    """`FlashAttention` whose results are known, differentiated by its own kernel."""

    def __init__(self, precision: Precision, num_heads: int):
        super().__init__(auto_prefix=False)
        self.low, self.sum_rows = to_compute(precision), ops.UnsortedSegmentSum()
        self.gradient = FlashAttentionScoreGrad(num_heads, input_layout="TND", sparse_mode=_UP_TO_LAST, next_tokens=0)
        self.causal, self.numbers = _causal_mask(), HostNumbers()

    def construct(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        places: Tensor,
        query_ends: Tensor,
        key_ends: Tensor,
        attended: Tensor,
        maxima: Tensor,
        sums: Tensor,
    ) -> tuple:
        return attended, maxima, sums

    def _of_stream(self, gradient: Tensor, places: Tensor, like: Tensor) -> Tensor:
        """Summed over the segments that share a key; the row behind the stream takes what fills up."""
        rows = full(gradient).reshape(gradient.shape[0], -1)
        return self.low(self.sum_rows(rows, places, like.shape[0] + 1)[:-1].reshape(like.shape))

    def bprop(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        places: Tensor,
        query_ends: Tensor,
        key_ends: Tensor,
        attended: Tensor,
        maxima: Tensor,
        sums: Tensor,
        out: tuple,
        gradients: tuple,
    ) -> tuple:
        keys, values = _chosen(key, places), _chosen(value, places)
        ends = (self.numbers(query_ends), self.numbers(key_ends))
        of_forward = (self.causal, maxima, sums, None, attended, None, *ends)
        dquery, dkeys, dvalues, _ = self.gradient(query, keys, values, gradients[0], None, None, None, *of_forward)
        return (
            dquery,
            self._of_stream(dkeys, places, key),
            self._of_stream(dvalues, places, value),
            ops.zeros_like(places),
            ops.zeros_like(query_ends),
            ops.zeros_like(key_ends),
            ops.zeros_like(attended),
            ops.zeros_like(maxima),
            ops.zeros_like(sums),
        )
