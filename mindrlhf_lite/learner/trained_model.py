"""The actor: the policy being trained. Jitted graphs accumulate gradients, stage by stage, and apply them.

Ordering contract of one update: `accumulate` for every micro-batch, then `optimizer.step` once. The gradient
accumulators are zero between updates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.gradients import StagedGradients
from mindrlhf_lite.learner.loss_scale import LossScale
from mindrlhf_lite.learner.policy_loss import Objective, ObjectiveLoss, as_tensors
from mindrlhf_lite.learner.statistics import merged_statistics
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.scoring.batches import MicroBatch
from mindrlhf_lite.scoring.stages import Keeps, StageLayers


class Actor:
    """The trained policy with its optimizer.

    Args:
        model: trainable; this rank's share.
        shards_optimizer: whether the optimizer's state is shared by the data-parallel ranks.
        keeps: what of the layers is kept for the backward pass.
        loss_scale: what the loss is multiplied by; None: nothing.
        part_bytes: of the optimizer's state, see `AdamW`.
    """

    def __init__(
        self,
        model: Decoder,
        objective: Objective,
        optimizer: AdamWOptions,
        shards_optimizer: bool = False,
        keeps: Keeps = Keeps.ALL,
        loss_scale: LossScale | None = None,
        part_bytes: int = 0,
    ):
        self.model, self.mesh = model, model.mesh
        self.optimizer = AdamW(model, optimizer, shards_optimizer, loss_scale, part_bytes)
        self.layers = StageLayers(model)
        self.loss = ObjectiveLoss(model, objective)
        self._gradients = StagedGradients(self.layers, self.loss, self.optimizer.gradients, as_tensors, keeps)

    def accumulate(self, batches: Sequence[MicroBatch]) -> tuple[dict[str, float], list[list[np.ndarray]]]:
        """Adds the gradients of the micro-batches.

        Returns: (statistics of `ObjectiveLoss` by name, merged over the micro-batches; the current logprobs of every
        sequence, by micro-batch). Ranks before the last stage get neither.

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
