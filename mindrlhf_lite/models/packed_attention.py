"""Attention over packed sequences: one stream of tokens, in which completions follow the prompt that they share.

A token sees its own segment and, if that is a completion, the prompt's, each up to its own position. The stream is cut
into blocks of queries; a block computes with those keys only that one of its tokens may see, brought together by
index. So the work follows the lengths, whatever shares the stream, and a prompt's keys are computed once for all its
completions (PrefixGrouper, arXiv:2506.05433, does so for rows of equal groups).
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindrlhf_lite.models.precision import Precision, full, to_compute
from mindrlhf_lite.models.spread import spread

MASKED = -1e9  # additive mask: exp(MASKED - max) is exactly 0 in float32

_batch_matmul = ops.BatchMatMul()
_batch_matmul_tb = ops.BatchMatMul(transpose_b=True)
_batch_matmul_ta = ops.BatchMatMul(transpose_a=True)
_softmax = ops.Softmax(-1)
_mean = ops.ReduceMean(keep_dims=True)
_segment_sum = ops.UnsortedSegmentSum()


def key_rows(keys: np.ndarray, width: int, kv_heads: int) -> np.ndarray:
    """Rows of the keys of a layer, laid out as [blocks, kv_heads, width, D], that the query blocks compute with.

    Args: keys int32 [blocks, K], places in the stream; width: tokens of a block.
    Returns: int32 [blocks * kv_heads * K].
    """
    first = keys // width * (kv_heads * width) + keys % width
    heads = np.arange(kv_heads, dtype=np.int32)[:, None] * width
    return (first[:, None] + heads).astype(np.int32).reshape(-1)


def visibility_mask(
    positions: np.ndarray, segments: np.ndarray, prompts: np.ndarray, keys: np.ndarray, used: np.ndarray
) -> np.ndarray:
    """Additive mask, float32 [blocks, width, K]: 0 where a query may see a key.

    Args: positions, segments, prompts int32 [T]: a token's position in its sequence, its segment, and the segment of
    its prompt; keys int32 [blocks, K]; used int32 [blocks]: how many of them are keys, the others fill up.
    """
    blocks, count = keys.shape
    own, prompt, here = (each.reshape(blocks, -1, 1) for each in (segments, prompts, positions))
    key_segments, key_positions = segments[keys][:, None], positions[keys][:, None]
    visible = ((key_segments == own) | (key_segments == prompt)) & (key_positions <= here)
    visible &= (np.arange(count) < used[:, None])[:, None]
    return np.where(visible, np.float32(0), np.float32(MASKED))


def causal_mask(length: int) -> Tensor:
    """Additive mask, float32 [1, length, length]. Sequences are padded on the right, so it also hides padding from
    valid tokens.
    """
    positions = ops.arange(length)
    visible = positions.reshape(1, length, 1) >= positions.reshape(1, 1, length)
    return (1.0 - visible.astype(ms.float32)) * MASKED


def chosen(x: Tensor, rows: Tensor) -> Tensor:
    """Keys or values [N, D] brought together for the blocks, [B * KV * K, D]."""
    return ops.gather(x, rows, 0)


def _of_pairs(x: Tensor, rows: Tensor, pairs: int) -> Tensor:
    """Of each block and key head: [pairs, K, D]."""
    return chosen(x, rows).reshape(pairs, -1, x.shape[-1])


class PackedAttention(nn.Cell):
    """softmax(q k^T + mask) v of query blocks over keys chosen by index. Differentiated as `KnownAttention`."""

    def __init__(self, precision: Precision, num_heads: int):
        super().__init__(auto_prefix=False)
        self.low = to_compute(precision)

    def construct(self, query: Tensor, key: Tensor, value: Tensor, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Args: query [B, heads, W, D], already scaled, of B blocks of W tokens; key, value [B*KV*W, D]; rows
        [B*KV*K] int32 (see `key_rows`); mask [B, W, K]. Returns ([B, heads, W, D], probabilities [B*KV, G*W, K]).
        """
        blocks, width, count = mask.shape
        head_dim = query.shape[-1]
        pairs = rows.shape[0] // count
        keys, values = _of_pairs(key, rows, pairs), _of_pairs(value, rows, pairs)
        scores = full(self.low(_batch_matmul_tb(query.reshape(pairs, -1, head_dim), keys)))
        scores = scores.reshape(blocks, -1, width, count)
        scores = scores + spread(mask.reshape(blocks, 1, width, count), scores.shape)
        probabilities = self.low(_softmax(scores.reshape(-1, count))).reshape(pairs, -1, count)
        return self.low(_batch_matmul(probabilities, values)).reshape(query.shape), probabilities


class KnownAttention(nn.Cell):
    """`PackedAttention` whose results are known, and its gradient written out: it takes rowsum(dP * P) as
    rowsum(dO * O) (FlashAttention, arXiv:2205.14135, eq. 4).
    """

    def __init__(self, precision: Precision, num_heads: int):
        super().__init__(auto_prefix=False)
        self.low = to_compute(precision)

    def construct(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Tensor,
        mask: Tensor,
        attended: Tensor,
        probabilities: Tensor,
    ) -> tuple[Tensor, Tensor]:
        return attended, probabilities

    def bprop(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Tensor,
        mask: Tensor,
        attended: Tensor,
        probabilities: Tensor,
        out: tuple,
        gradients: tuple,
    ) -> tuple:
        head_dim, count = query.shape[-1], mask.shape[-1]
        pairs = rows.shape[0] // count
        doutput = gradients[0].reshape(pairs, -1, head_dim)
        queries, keys, values = (
            query.reshape(pairs, -1, head_dim),
            _of_pairs(key, rows, pairs),
            _of_pairs(value, rows, pairs),
        )
        dprobabilities = full(self.low(_batch_matmul_tb(doutput, values))).reshape(-1, count)
        row_sum = _mean(full(doutput).reshape(-1, head_dim) * full(attended).reshape(-1, head_dim), -1) * head_dim
        shifted = dprobabilities - spread(row_sum, dprobabilities.shape)
        dscores = self.low((full(probabilities).reshape(-1, count) * shifted).reshape(probabilities.shape))
        dkeys = full(self.low(_batch_matmul_ta(dscores, queries))).reshape(-1, head_dim)
        dvalues = full(self.low(_batch_matmul_ta(probabilities, doutput))).reshape(-1, head_dim)
        return (
            self.low(_batch_matmul(dscores, keys)).reshape(query.shape),
            self.low(_segment_sum(dkeys, rows, key.shape[0])),
            self.low(_segment_sum(dvalues, rows, key.shape[0])),
            ops.zeros_like(rows),
            ops.zeros_like(mask),
            ops.zeros_like(attended),
            ops.zeros_like(probabilities),
        )


class Known(nn.Cell):
    """A value that was computed before, with the gradient of its computation, which then need not run."""

    def construct(self, computed: Tensor, value: Tensor) -> Tensor:
        return value

    def bprop(self, computed: Tensor, value: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, ops.zeros_like(value)
