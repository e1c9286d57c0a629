"""Losses over pairs of sequences, each pair in one micro-batch with the chosen one first (scoring/pairs.py)."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from mindrlhf_lite.algorithms.preferences import PREFERENCES, PreferenceOptions, bradley_terry
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.logprobs import SlotLogprobs, names_of_ends
from mindrlhf_lite.models.score_head import Scores, names_of_score
from mindrlhf_lite.scoring.batches import MicroBatch
from mindrlhf_lite.scoring.pairs import weights_of_pairs

_STATISTICS = ("loss", "pairs", "accuracy", "margin", "chosen", "rejected")  # sums over pairs


def _counted(losses: Tensor, chosen: Tensor, rejected: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(the update's loss, of this micro-batch; values of _STATISTICS)."""
    loss, is_pair = (losses * weights).sum(), (weights > 0).astype(losses.dtype)
    is_right = (chosen > rejected).astype(losses.dtype)
    sums = (
        loss,
        is_pair.sum(),
        (is_right * is_pair).sum(),
        ((chosen - rejected) * is_pair).sum(),
        (chosen * is_pair).sum(),
        (rejected * is_pair).sum(),
    )
    return loss, ops.stop_gradient(ops.stack(sums))


class PreferenceLoss(nn.Cell):
    """Of the logprobs of both answers. Args: loss: of `PREFERENCES`."""

    statistics = _STATISTICS

    def __init__(self, model: Decoder, loss: str, options: PreferenceOptions):
        super().__init__(auto_prefix=False)
        self.weight_names, self.slot_logprobs = names_of_ends(model), SlotLogprobs(model)
        self.loss, self.options = PREFERENCES[loss], options

    def inputs_of(self, batch: MicroBatch) -> tuple[Tensor, ...]:
        arrays = (batch.predictors, batch.labels, batch.mask, batch.sequences, batch.reference_logprobs)
        numbers = (weights_of_pairs(batch), batch.divergence, batch.loss_scale)
        return tuple(Tensor(np.asarray(array)) for array in (*arrays, *numbers))

    def construct(
        self,
        stream: Tensor,
        predictors: Tensor,
        labels: Tensor,
        mask: Tensor,
        sequences: Tensor,
        reference: Tensor,
        weights: Tensor,
        divergence: Tensor,
        loss_scale: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        logprobs = self.slot_logprobs(stream, predictors, labels)[0]
        slots = labels.shape[0]

        def of_pairs(values: Tensor) -> Tensor:
            return ops.unsorted_segment_sum(values * mask, sequences, slots).reshape(-1, 2)

        sums, references = of_pairs(logprobs), of_pairs(reference)
        tokens = ops.maximum(of_pairs(mask), ops.ones_like(sums))
        pairs = {
            "chosen": sums[:, 0],
            "rejected": sums[:, 1],
            "reference_chosen": references[:, 0],
            "reference_rejected": references[:, 1],
            "chosen_tokens": tokens[:, 0],
            "rejected_tokens": tokens[:, 1],
            "divergence": divergence,
        }
        losses, chosen, rejected = self.loss(pairs, self.options)
        loss, statistics = _counted(losses, chosen, rejected, weights)
        return loss * loss_scale, statistics, ops.stop_gradient(logprobs)


class RewardLoss(nn.Cell):
    """Bradley-Terry, of the scores of both answers at their last tokens. A chosen answer's advantage is the margin.

    Args: center: of `bradley_terry`.
    """

    statistics = _STATISTICS

    def __init__(self, model: Decoder, center: float):
        super().__init__(auto_prefix=False)
        self.weight_names, self.scores, self.center = names_of_score(model), Scores(model), center

    def inputs_of(self, batch: MicroBatch) -> tuple[Tensor, ...]:
        margins = np.zeros(len(batch.token_ids) // 2, np.float32)
        starts = np.cumsum((0, *batch.lengths[:-1]))[::2]
        margins[: len(starts)] = batch.advantages[starts]
        arrays = (batch.ends, margins, weights_of_pairs(batch), batch.loss_scale)
        return tuple(Tensor(np.asarray(array)) for array in arrays)

    def construct(
        self, stream: Tensor, ends: Tensor, margins: Tensor, weights: Tensor, loss_scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        scores = self.scores(stream, ends).reshape(-1, 2)
        chosen, rejected = scores[:, 0], scores[:, 1]
        losses = bradley_terry(chosen, rejected, margins, self.center)
        loss, statistics = _counted(losses, chosen, rejected, weights)
        return loss * loss_scale, statistics, ops.stop_gradient(scores.reshape(-1))
