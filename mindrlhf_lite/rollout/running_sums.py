"""Where a sum along the rows of a large array passes a number, in chunks: few passes over the array."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

_CHUNK = 128  # numbers that are added up before any is looked at
BELOW_ONE = 1.0 - 2.0**-23  # times a float32 is below it

_gather_d = ops.GatherD()
_cumsum = ops.CumSum()
_mean = ops.ReduceMean()  # the form of a sum that is fast on CPU


def running_sums(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """weights [B, V], not negative -> (in chunks [B * chunks, 128], sums of chunks [B, chunks], running sums of
    those).
    """
    rows, vocabulary = weights.shape
    if vocabulary % _CHUNK:
        filler = ops.zeros((rows, _CHUNK - vocabulary % _CHUNK), weights.dtype)
        weights = ops.concat((weights, filler), 1)
    chunks = weights.reshape(-1, _CHUNK)
    masses = (_mean(chunks, -1) * _CHUNK).reshape(rows, -1)
    return chunks, masses, _cumsum(masses, 1)


def found_in(chunks: Tensor, masses: Tensor, sums: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """(place in its row int32 [B, 1], weight [B, 1]) of the first weight up to which the sum exceeds wanted [B, 1].

    Args: chunks, masses, sums: of `running_sums`.
    """
    rows, number = sums.shape
    chunk = first_beyond(sums, wanted, masses)
    before = _gather_d(ops.concat((ops.zeros((rows, 1), sums.dtype), sums), 1), 1, chunk)
    own = ops.gather(chunks, ops.arange(rows).astype(ms.int32) * number + chunk.reshape(-1), 0)
    inside = _cumsum(own, 1)
    # the two sums round differently: never beyond the last token that has a probability
    place = first_beyond(inside, ops.minimum(wanted - before, inside[:, -1:] * BELOW_ONE), own)
    return chunk * _CHUNK + place, _gather_d(own, 1, place)


def first_beyond(sums: Tensor, wanted: Tensor, parts: Tensor) -> Tensor:
    """int32 [B, 1]: the first place of a row at which the running sum of `parts` exceeds `wanted` and at which there is
    anything; where it never does, the last place with anything. A running sum that was added up in parallel need not
    rise: the sum alone could choose a masked token.

    Args: sums, parts float32 [B, N]; wanted [B, 1].
    """
    count = sums.shape[1]
    places = ops.arange(count).astype(ms.float32).reshape(1, -1)
    is_some = (parts > 0).astype(ms.float32)
    is_beyond = (sums > wanted).astype(ms.float32) * is_some
    rank = is_beyond * (2.0 * count - places) + (1.0 - is_beyond) * is_some * (places + 1.0)
    return ops.argmax(rank, 1).astype(ms.int32).reshape(-1, 1)
