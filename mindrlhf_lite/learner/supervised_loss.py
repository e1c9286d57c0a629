"""The loss of supervised training: the negative logprob of the completion tokens that count."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.logprobs import SlotLogprobs, names_of_ends
from mindrlhf_lite.scoring.batches import MicroBatch


class SupervisedLoss(nn.Cell):
    """Sum of -weight * log p(label) over a micro-batch's tokens: with `token_mean` the cross entropy of the batch."""

    statistics = ("loss", "tokens")

    def __init__(self, model: Decoder):
        super().__init__(auto_prefix=False)
        self.weight_names, self.slot_logprobs = names_of_ends(model), SlotLogprobs(model)

    def inputs_of(self, batch: MicroBatch) -> tuple[Tensor, ...]:
        arrays = (batch.predictors, batch.labels, batch.mask, batch.weight, batch.loss_scale)
        return tuple(Tensor(np.asarray(array)) for array in arrays)

    def construct(
        self, stream: Tensor, predictors: Tensor, labels: Tensor, mask: Tensor, weight: Tensor, loss_scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.slot_logprobs(stream, predictors, labels)
        loss = -(outputs[0] * weight).sum()
        return loss * loss_scale, ops.stop_gradient(ops.stack((loss, mask.sum()))), ops.stop_gradient(outputs[0])
