"""Drawing tokens from logits inside a graph, with as few passes over the vocabulary as that takes."""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindrlhf_lite.parallel.mesh import Axis
from mindrlhf_lite.rollout.agreement import Agreement
from mindrlhf_lite.rollout.graph_filters import FilteredLogits, Filters
from mindrlhf_lite.rollout.running_sums import BELOW_ONE, found_in, running_sums
from mindrlhf_lite.types import SamplingParams

_softmax = ops.Softmax(-1)
_log_softmax = ops.LogSoftmax(-1)
_gather_d = ops.GatherD()


@dataclass(frozen=True)
class Drawing:
    """How a decoding graph draws; what it need not do is not in the graph."""

    in_graph: bool  # False: it returns logits
    is_greedy: bool = False
    is_scaled: bool = False  # by a temperature
    reports_scaled_policy: bool = False  # the policy's logprobs are those at that temperature
    forbids_stops: bool = False  # until min_tokens

    filters: Filters | None = None

    @staticmethod
    def of(sampling: SamplingParams, filters_in_graph: bool = False) -> Drawing:
        filters = Filters.of(sampling) if filters_in_graph else None
        if sampling.has_filters and filters is None:
            return Drawing(False)
        is_scaled = sampling.temperature not in (0.0, 1.0)
        reports_scaled = is_scaled and sampling.reports_tempered_policy
        return Drawing(True, sampling.temperature == 0, is_scaled, reports_scaled, sampling.min_tokens > 0, filters)


def draw_tokens(sampled_logits: Tensor, logits: Tensor, differ: bool, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse CDF: the first token at which the sum of probabilities exceeds uniform times all of it. The sum is taken
    in chunks, then within the one where it happens.

    Args: sampled_logits [B, V] of the distribution to draw from; logits [B, V] of the policy; differ: whether they are
    not the same; uniform float32 [B].
    Returns: (token [B] int32, its logprob [B] under sampled_logits, its logprob [B] under logits).
    """
    chunks, masses, sums = running_sums(_softmax(sampled_logits))
    wanted = ops.minimum(uniform.reshape(-1, 1), Tensor(BELOW_ONE, ms.float32)) * sums[:, -1:]
    token, probability = found_in(chunks, masses, sums, wanted)
    logprob = ops.log(probability).reshape(-1)
    policy = _gather_d(_log_softmax(logits), 1, token).reshape(-1) if differ else logprob
    return token.reshape(-1), logprob, policy


def draw_greedily(allowed_logits: Tensor, logits: Tensor, differ: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable token; arguments and result as of `draw_tokens`."""
    token = ops.argmax(allowed_logits, 1).astype(ms.int32).reshape(-1, 1)
    logprob = _gather_d(_log_softmax(allowed_logits), 1, token).reshape(-1)
    policy = _gather_d(_log_softmax(logits), 1, token).reshape(-1) if differ else logprob
    return token.reshape(-1), logprob, policy


class WholeDraw(nn.Cell):
    """Draws from logits of the whole vocabulary; tensor ranks do so each by itself, and compare.

    Args: stop_bias: float32 [V]: MASKED on stop tokens, else 0.
    """

    def __init__(self, axis: Axis | None, stop_bias: np.ndarray, drawing: Drawing):
        super().__init__(auto_prefix=False)
        self.drawing, self.agreement, self.stop_bias = drawing, Agreement(axis), Tensor(stop_bias[None])
        self.filtered = FilteredLogits(drawing.filters) if drawing.filters else nn.Identity()
        self.differs = bool(drawing.filters)

    def construct(self, logits: Tensor, uniform: Tensor, forbid_stop: Tensor, inverse_temperature: Tensor) -> tuple:
        """Args: logits float32 [B, V]; the others: of `Decode.construct`.

        Returns: (token [B] int32, its logprob [B] under what is drawn from, its logprob [B] under the policy), then
        what `Agreement` adds.
        """
        drawing, allowed = self.drawing, logits
        if drawing.is_scaled:
            allowed = logits * inverse_temperature
        policy = allowed if drawing.reports_scaled_policy else logits
        if drawing.forbids_stops:
            allowed = allowed + forbid_stop.reshape(-1, 1) * self.stop_bias
        allowed = self.filtered(allowed)
        if drawing.is_greedy:
            return self.agreement(draw_greedily(allowed, policy, drawing.forbids_stops or self.differs))
        is_other = self.differs or (drawing.is_scaled and not drawing.reports_scaled_policy)
        return self.agreement(draw_tokens(allowed, policy, drawing.forbids_stops or is_other, uniform))
