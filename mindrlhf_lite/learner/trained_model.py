"""A trained model: a model, its loss and its optimizer. Jitted graphs accumulate gradients, stage by stage.

Ordering contract of one update: `accumulate` for all its micro-batches, then `optimizer.step` once. The gradient
accumulators are zero between updates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindrlhf_lite.learner.adamw import AdamW
from mindrlhf_lite.learner.gradients import StagedGradients
from mindrlhf_lite.learner.loss import Loss
from mindrlhf_lite.learner.statistics import merged_statistics
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.scoring.batches import MicroBatch
from mindrlhf_lite.scoring.stages import Keeps, StageLayers


class TrainedModel:
    """Args:
    model: this rank's share; of its parameters, those are trained that take gradients.
    loss: of a micro-batch.
    optimizer: over the model's trained parameters.
    keeps: what of the layers is kept for the backward pass.
    """

    def __init__(
        self,
        model: Decoder,
        loss: Loss,
        optimizer: AdamW,
        keeps: Keeps = Keeps.ALL,
        alike: TrainedModel | None = None,
    ):
        self.model, self.mesh, self.loss, self.optimizer = model, model.mesh, loss, optimizer
        self.layers: StageLayers = StageLayers(model, alike.layers if alike else None)
        gradients = alike._gradients if alike else None
        self._gradients: StagedGradients = StagedGradients(self.layers, loss, optimizer.accumulators, keeps, gradients)

    def with_loss(self, loss: Loss) -> TrainedModel:
        """The same weights and optimizer under another loss; the layers' graphs are shared."""
        return TrainedModel(self.model, loss, self.optimizer, self._gradients.keeps, self)

    def accumulate(self, batches: Sequence[MicroBatch]) -> tuple[dict[str, float], list[list[np.ndarray]]]:
        """Adds the gradients of the micro-batches.

        Returns: (the loss's statistics by name, merged over the micro-batches; the current logprobs of every sequence,
        by micro-batch). Ranks before the last stage get neither.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        total: dict[str, float] = {}
        logprobs = []
        for batch, outputs in zip(batches, self._gradients.run(batches)):  # no outputs before the last stage
            own = dict(zip(self.loss.statistics, outputs[0].asnumpy().tolist(), strict=True))
            if not np.isfinite(list(own.values())).all():
                raise FloatingPointError(f"statistics of a micro-batch are not finite: {own}")
            total = merged_statistics(total, own)
            logprobs.append(batch.split(outputs[1].asnumpy()))
        return total, logprobs
