"""Attention of chunks of tokens over keys and values that a cache holds, with a mask: the plain form."""

from __future__ import annotations

from collections.abc import Callable

from mindspore import Tensor, ops

from mindrlhf_lite.models.precision import full
from mindrlhf_lite.models.spread import spread

_batch_matmul = ops.BatchMatMul()
_batch_matmul_tb = ops.BatchMatMul(transpose_b=True)
_softmax = ops.Softmax(-1)


def attend_to_caches(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, low: Callable[[Tensor], Tensor]
) -> Tensor:
    """Args: query [R, heads, T, D], already scaled; key, value [R * KV, S, D]; mask [R, 1, T, S], additive; low: rounds
    to the compute type. Returns [R * T, heads * D].
    """
    rows, heads, length, head_dim = query.shape
    pairs, context = key.shape[0], key.shape[1]
    scores = full(low(_batch_matmul_tb(query.reshape(pairs, -1, head_dim), key)))
    scores = scores.reshape(rows, heads, length, context) + spread(mask, (rows, heads, length, context))
    probabilities = low(_softmax(scores.reshape(-1, context))).reshape(pairs, -1, context)
    attended = low(_batch_matmul(probabilities, value)).reshape(rows, heads, length, head_dim)
    return attended.transpose(0, 2, 1, 3).reshape(rows * length, heads * head_dim)
