"""The actor: the policy being trained. Jitted graphs accumulate gradients, stage by stage, and apply them.

Ordering contract of one update: `accumulate` for every micro-batch, then `apply` once. The gradient accumulators are
zero between updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor, jit, nn, ops

from mindrlhf_lite.algorithms.kl import k3_kl
from mindrlhf_lite.algorithms.policy_loss import clipped_policy_loss, importance_ratio, truncated_importance_weight
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.logprobs import TokenLogprobs
from mindrlhf_lite.trainer.batches import MicroBatch
from mindrlhf_lite.trainer.optimizer import AdamW, AdamWOptions
from mindrlhf_lite.trainer.stages import StagedGradients, StageLayers, run_stages
from mindrlhf_lite.trainer.statistics import merged_statistics

# sums of a micro-batch, or its maximum, in the order in which the graph returns them
_STATISTICS = ("loss", "policy", "kl", "entropy", "clip_low", "clip_high", "ratio_max")


@dataclass(frozen=True)
class LossOptions:
    """The loss: -w min(ratio A, clip(ratio) A) + beta * KL, a token.

    `is_cap`: w is min(policy / sampling distribution, is_cap), so that filters and temperature are corrected for; 0: w
        is 1.
    `policy_is_frozen`: whether policy logprobs were recorded before the first of several updates; otherwise the batch
        is on-policy, the ratio is 1, and its gradient is that of the logprob.
    """

    beta: float
    epsilon_low: float
    epsilon_high: float
    policy_is_frozen: bool
    is_cap: float = 0.0


class GrpoLoss(nn.Cell):
    """Weighted sum of the per-token loss of one micro-batch, and its statistics, from what the last layer returned."""

    def __init__(self, model: Decoder, options: LossOptions):
        super().__init__(auto_prefix=False)
        self.model, self.options = model, options
        self.token_logprobs = TokenLogprobs(model.config.vocab_size, model.mesh.tensor)

    def construct(
        self,
        stream: Tensor,
        predictors: Tensor,
        labels: Tensor,
        mask: Tensor,
        weight: Tensor,
        advantages: Tensor,
        frozen_logprobs: Tensor,
        reference_logprobs: Tensor,
        sampling_logprobs: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Args: stream: the residual stream after the last layer; the others as the fields of MicroBatch. Returns
        (loss, _STATISTICS [7], logprobs [N]).
        """
        options = self.options
        hidden = ops.gather(self.model.norm(stream), predictors, 0)
        outputs = self.token_logprobs(hidden, self.model.head, labels)
        logprobs, entropy = outputs[0], outputs[1]
        # padded slots hold some real token's logprob: they are multiplied by weight 0, and kept finite, below
        frozen = ops.stop_gradient(logprobs)
        if options.policy_is_frozen:
            frozen = frozen_logprobs * mask + frozen * (1.0 - mask)
        ratio = importance_ratio(logprobs, frozen)
        policy = clipped_policy_loss(ratio, advantages, options.epsilon_low, options.epsilon_high)
        if options.is_cap > 0:
            policy = policy * truncated_importance_weight(
                frozen, sampling_logprobs * mask + frozen * (1.0 - mask), options.is_cap
            )
        loss_sum = (policy * weight).sum()
        kl_sum = ops.zeros_like(loss_sum)
        if options.beta > 0:
            kl_sum = (
                k3_kl(logprobs, reference_logprobs * mask + ops.stop_gradient(logprobs) * (1.0 - mask)) * weight
            ).sum()
        loss = loss_sum + options.beta * kl_sum
        clip_low = (
            (ratio < 1.0 - options.epsilon_low).astype(mask.dtype) * (advantages < 0).astype(mask.dtype) * mask
        ).sum()
        clip_high = (
            (ratio > 1.0 + options.epsilon_high).astype(mask.dtype) * (advantages > 0).astype(mask.dtype) * mask
        ).sum()
        statistics = ops.stack(
            (loss, loss_sum, kl_sum, (entropy * mask).sum(), clip_low, clip_high, (ratio * mask).max())
        )
        return loss, ops.stop_gradient(statistics), ops.stop_gradient(logprobs)


def as_tensors(batch: MicroBatch) -> tuple[Any, ...]:
    """A micro-batch in GrpoLoss's argument order, after the residual stream."""
    logprobs = (batch.frozen_logprobs, batch.reference_logprobs, batch.sampling_logprobs)
    arrays = (batch.predictors, batch.labels, batch.mask, batch.weight, batch.advantages, *logprobs)
    return tuple(Tensor(array) for array in arrays)


class Actor:
    """The trained policy with its optimizer.

    Args:
        model: trainable; this rank's share.
        shards_optimizer: whether the optimizer's state is shared by the data-parallel ranks.
        recomputes: whether activations are computed again in the backward pass, a layer at a time.
    """

    def __init__(
        self,
        model: Decoder,
        loss: LossOptions,
        optimizer: AdamWOptions,
        shards_optimizer: bool = False,
        recomputes: bool = False,
    ):
        self.model, self.mesh = model, model.mesh
        self.optimizer = AdamW(model, optimizer, shards_optimizer)
        self.layers = StageLayers(model)
        self._gradients = StagedGradients(
            self.layers, GrpoLoss(model, loss), self.optimizer.gradients, as_tensors, recomputes
        )

    def accumulate(self, batches: Sequence[MicroBatch]) -> tuple[dict[str, float], list[list[np.ndarray]]]:
        """Adds the gradients of the micro-batches.

        Returns: (statistics by name, merged over the micro-batches; the current logprobs of every sequence, by
        micro-batch). Ranks before the last stage get neither.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        total: dict[str, float] = {}
        logprobs = []
        for batch, outputs in zip(batches, self._gradients.run(batches)):  # no outputs before the last stage
            values, own = outputs[1].asnumpy(), dict(zip(_STATISTICS, outputs[0].asnumpy().tolist(), strict=True))
            if not np.isfinite(list(own.values())).all():
                raise FloatingPointError(f"statistics of a micro-batch are not finite: {own}")
            total = merged_statistics(total, own)
            logprobs.append(batch.split(values))
        return total, logprobs

    def apply(self, lr: float) -> float:
        """One optimizer update; returns the gradient norm before clipping."""
        return self.optimizer.step(lr)


class _LogprobHead(nn.Cell):
    def __init__(self, model: Decoder):
        super().__init__(auto_prefix=False)
        self.model = model
        self.token_logprobs = TokenLogprobs(model.config.vocab_size, model.mesh.tensor)

    @jit
    def construct(self, stream: Tensor, predictors: Tensor, labels: Tensor) -> Tensor:
        hidden = ops.gather(self.model.norm(stream), predictors, 0)
        # unpacked into unused names, MindSpore warns of "side effect nodes eliminated by mistake"
        return self.token_logprobs(hidden, self.model.head, labels)[0]


class LogprobScorer:
    """Logprobs of completion tokens under a model: the reference role, and the frozen policy of several updates.

    Args:
        alike: layers whose graph serves this model too (see `StageLayers`).
    """

    def __init__(self, model: Decoder, alike: StageLayers | None = None):
        self.model = model
        self._layers, self._head = StageLayers(model, alike), _LogprobHead(model)

    def score(self, batch: MicroBatch) -> list[np.ndarray]:
        """float32 logprobs of every sequence's completion tokens; nothing on ranks before the last stage."""
        stream = run_stages(self._layers, batch)
        if stream is None:
            return []
        return batch.split(self._head(stream, Tensor(batch.predictors), Tensor(batch.labels)).asnumpy())
