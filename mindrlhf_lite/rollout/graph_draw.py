"""Drawing tokens from logits inside a graph, with as few passes over the vocabulary as that takes."""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, ops

from mindrlhf_lite.types import SamplingParams

_CHUNK = 128  # tokens whose probabilities are added up before any is looked at
_BELOW_ONE = 1.0 - 2.0**-23  # times a float32 is below it

_softmax = ops.Softmax(-1)
_log_softmax = ops.LogSoftmax(-1)
_gather_d = ops.GatherD()
_cumsum = ops.CumSum()
_mean = ops.ReduceMean()  # the form of a sum that is fast on CPU


@dataclass(frozen=True)
class Drawing:
    """How a decoding graph draws; what it need not do is not in the graph."""

    in_graph: bool  # False: it returns logits
    is_greedy: bool = False
    is_scaled: bool = False  # by a temperature
    reports_scaled_policy: bool = False  # the policy's logprobs are those at that temperature
    forbids_stops: bool = False  # until min_tokens

    @staticmethod
    def of(sampling: SamplingParams) -> Drawing:
        if sampling.has_filters:
            return Drawing(False)
        is_scaled = sampling.temperature not in (0.0, 1.0)
        reports_scaled = is_scaled and sampling.reports_tempered_policy
        return Drawing(True, sampling.temperature == 0, is_scaled, reports_scaled, sampling.min_tokens > 0)


def draw_tokens(sampled_logits: Tensor, logits: Tensor, differ: bool, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse CDF: the first token at which the sum of probabilities exceeds uniform times all of it. The sum is taken
    in chunks, then within the one where it happens.

    Args: sampled_logits [B, V] of the distribution to draw from; logits [B, V] of the policy; differ: whether they are
    not the same; uniform float32 [B].
    Returns: (token [B] int32, its logprob [B] under sampled_logits, its logprob [B] under logits).
    """
    rows, vocabulary = logits.shape
    probabilities = _softmax(sampled_logits)
    if vocabulary % _CHUNK:
        filler = ops.zeros((rows, _CHUNK - vocabulary % _CHUNK), probabilities.dtype)
        probabilities = ops.concat((probabilities, filler), 1)
    chunks = probabilities.reshape(-1, _CHUNK)
    number = chunks.shape[0] // rows
    masses = (_mean(chunks, -1) * _CHUNK).reshape(rows, number)
    sums = _cumsum(masses, 1)
    wanted = ops.minimum(uniform.reshape(-1, 1), Tensor(_BELOW_ONE, ms.float32)) * sums[:, -1:]
    chunk = first_beyond(sums, wanted, masses)
    before = _gather_d(ops.concat((ops.zeros((rows, 1), sums.dtype), sums), 1), 1, chunk)
    own = ops.gather(chunks, ops.arange(rows).astype(ms.int32) * number + chunk.reshape(-1), 0)
    inside = _cumsum(own, 1)
    # the two sums round differently: never beyond the last token that has a probability
    place = first_beyond(inside, ops.minimum(wanted - before, inside[:, -1:] * _BELOW_ONE), own)
    token = chunk * _CHUNK + place
    logprob = ops.log(_gather_d(own, 1, place)).reshape(-1)
    policy = _gather_d(_log_softmax(logits), 1, token).reshape(-1) if differ else logprob
    return token.reshape(-1), logprob, policy


def draw_greedily(allowed_logits: Tensor, logits: Tensor, differ: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable token; arguments and result as of `draw_tokens`."""
    token = ops.argmax(allowed_logits, 1).astype(ms.int32).reshape(-1, 1)
    logprob = _gather_d(_log_softmax(allowed_logits), 1, token).reshape(-1)
    policy = _gather_d(_log_softmax(logits), 1, token).reshape(-1) if differ else logprob
    return token.reshape(-1), logprob, policy


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
