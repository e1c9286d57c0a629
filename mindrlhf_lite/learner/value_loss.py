"""What a critic minimises: the clipped squared error of its values, over the tokens that count."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from mindrlhf_lite.algorithms.gae import value_loss
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.score_head import Scores, names_of_score
from mindrlhf_lite.scoring.batches import MicroBatch
from mindrlhf_lite.types import RETURNS, VALUES


class ValueLoss(nn.Cell):
    """Weighted sum over a micro-batch's tokens; its logprobs are values. Args: clip: of `value_loss`."""

    statistics = ("loss", "clipped")

    def __init__(self, model: Decoder, clip: float):
        super().__init__(auto_prefix=False)
        self.weight_names, self.clip, self.values = names_of_score(model), clip, Scores(model)

    def inputs_of(self, batch: MicroBatch) -> tuple[Tensor, ...]:
        own = (batch.of_roles[VALUES], batch.of_roles[RETURNS])
        arrays = (batch.predictors, batch.mask, batch.weight, *own, batch.loss_scale)
        return tuple(Tensor(np.asarray(array)) for array in arrays)

    def construct(
        self,
        stream: Tensor,
        predictors: Tensor,
        mask: Tensor,
        weight: Tensor,
        before: Tensor,
        returns: Tensor,
        loss_scale: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        values = self.values(stream, predictors)
        of_tokens, clipped = value_loss(values, before, returns, self.clip)
        loss = (of_tokens * weight).sum()
        counted = ops.stack((loss, (clipped * mask).sum()))
        return loss * loss_scale, ops.stop_gradient(counted), ops.stop_gradient(values)
