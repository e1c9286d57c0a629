"""Drawing where the tensor ranks hold parts of the vocabulary: each rank looks in its own part, and only a few numbers
a sequence pass between them. The whole logits would be 39 MB a token for 64 sequences over Qwen2.5's vocabulary.

All ranks choose from the same gathered numbers, so they cannot draw different tokens.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindrlhf_lite.models.packed_attention import MASKED
from mindrlhf_lite.parallel.collectives import GatherRows
from mindrlhf_lite.parallel.mesh import Axis
from mindrlhf_lite.rollout.graph_draw import Drawing
from mindrlhf_lite.rollout.running_sums import BELOW_ONE, first_beyond, found_in, running_sums

_largest = ops.ReduceMax()
_sum = ops.ReduceSum()
_gather_d = ops.GatherD()
_cumsum = ops.CumSum()


class SplitDraw(nn.Cell):
    """Args:
    axis: the tensor ranks.
    rows: of the vocabulary, on each of them; the last ones may lie beyond it.
    stop_bias: float32 [vocabulary]: MASKED on stop tokens, else 0.
    """

    def __init__(self, axis: Axis, rows: int, stop_bias: np.ndarray, drawing: Drawing):
        super().__init__(auto_prefix=False)
        self.degree, self.index, self.drawing = axis.size, axis.index, drawing
        self.gather, self.first_row = GatherRows(axis), axis.index * rows
        own = slice(self.first_row, self.first_row + rows)
        beyond = rows * axis.size - len(stop_bias)
        self.stop_bias = Tensor(np.pad(stop_bias, (0, beyond))[None, own])
        self.has_rows_beyond = beyond > 0
        self.absent = Tensor(np.pad(np.zeros_like(stop_bias), (0, beyond), constant_values=MASKED)[None, own])

    def _together(self, numbers: tuple) -> Tensor:
        """Of every rank, [B] each -> [ranks, how many, B]."""
        return self.gather(ops.concat(numbers).reshape(1, -1)).reshape(self.degree, len(numbers), -1)

    def construct(
        self, logits: Tensor, uniform: Tensor, forbid_stop: Tensor, inverse_temperature: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Args: logits float32 [B, rows], of this rank; the others: of `Decode.construct`.

        Returns: (token [B] int32, its logprob [B] under what is drawn from, its logprob [B] under the policy).
        """
        drawing = self.drawing
        if self.has_rows_beyond:
            logits = logits + self.absent
        allowed = logits
        if drawing.is_scaled:
            allowed = logits * inverse_temperature
        policy = allowed if drawing.reports_scaled_policy else logits
        if drawing.forbids_stops:
            allowed = allowed + forbid_stop.reshape(-1, 1) * self.stop_bias
        chunks, masses, sums, log_mass = self._weighed(allowed)
        policy_mass = log_mass
        if drawing.forbids_stops or (drawing.is_scaled and not drawing.reports_scaled_policy):
            policy_mass = self._weighed(policy)[3]
        of_ranks = self._together((log_mass, policy_mass))  # [ranks, 2, B]
        whole, whole_policy = _log_of_sum(of_ranks[:, 0]), _log_of_sum(of_ranks[:, 1])
        if drawing.is_greedy:
            token = ops.argmax(allowed, 1).astype(ms.int32).reshape(-1, 1)
            chosen = None
        else:
            shares = ops.exp(of_ranks[:, 0] - whole.reshape(1, -1)).transpose(1, 0)  # [B, ranks]
            up_to = _cumsum(shares, 1)
            wanted = ops.minimum(uniform.reshape(-1, 1), Tensor(BELOW_ONE, ms.float32)) * up_to[:, -1:]
            chosen = first_beyond(up_to, wanted, shares)
            own, end = shares[:, self.index : self.index + 1], up_to[:, self.index : self.index + 1]
            inside = (wanted - (end - own)) / ops.maximum(own, Tensor(1e-30, ms.float32))
            token = found_in(chunks, masses, sums, inside * sums[:, -1:])[0]
        logit = _gather_d(allowed, 1, token).reshape(-1)
        of_policy = _gather_d(policy, 1, token).reshape(-1) - whole_policy
        found = self._together((logit, (token.reshape(-1) + self.first_row).astype(ms.float32), of_policy))
        if chosen is None:  # the most probable of all; the first rank's among equals
            chosen = ops.argmax(found[:, 0].transpose(1, 0), 1).astype(ms.int32)
        logit, token, of_policy = self._of_rank(found, chosen)
        return token.astype(ms.int32), logit - whole, of_policy

    def _weighed(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`running_sums` of exp(logits - the largest), and the logarithm of the sum of exp(logits) [B]."""
        largest = _largest(logits, 1)
        chunks, masses, sums = running_sums(ops.exp(logits - largest.reshape(-1, 1)))
        return chunks, masses, sums, largest + ops.log(sums[:, -1])

    def _of_rank(self, found: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """found [ranks, 3, B] -> [B] each, of the rank that is chosen for it."""
        count = found.shape[2]
        places = ops.broadcast_to(chosen.reshape(1, 1, count), (1, 3, count))
        numbers = _gather_d(found, 0, places)[0]
        return numbers[0], numbers[1], numbers[2]


def _log_of_sum(logarithms: Tensor) -> Tensor:
    """log of the sum over ranks of exp(logarithms [ranks, B])."""
    largest = _largest(logarithms, 0)
    return largest + ops.log(_sum(ops.exp(logarithms - largest.reshape(1, -1)), 0))
