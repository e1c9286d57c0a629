"""Logprobs of completion tokens under a model that is not being changed."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from mindspore import Tensor, jit

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.logprobs import SlotLogprobs
from mindrlhf_lite.parallel.compiled import CompiledCell
from mindrlhf_lite.scoring.batches import MicroBatch
from mindrlhf_lite.scoring.stages import StageLayers, run_stages


class _LogprobHead(CompiledCell):
    def __init__(self, model: Decoder, temperature: float):
        super().__init__()
        self.slot_logprobs = SlotLogprobs(model, is_trained=False, temperature=temperature)

    @jit
    def construct(self, stream: Tensor, predictors: Tensor, labels: Tensor) -> Tensor:
        return self.slot_logprobs(stream, predictors, labels)[0]


class Scorer(Protocol):
    """What scores sequences under a model that is not being changed: logprobs, or a score head's numbers."""

    model: Decoder
    is_of_tokens: bool  # a number a completion token, or one of the whole sequence

    def score(self, batch: MicroBatch) -> list[np.ndarray]:
        """float32 of every sequence; nothing on ranks before the last stage."""


class LogprobScorer:
    """Logprobs of completion tokens under a model: the reference role, and the frozen policy of several updates.

    Args:
        alike: layers whose graph serves this model too (see `StageLayers`).
        temperature: logits are divided by it.
    """

    is_of_tokens = True

    def __init__(self, model: Decoder, alike: StageLayers | None = None, temperature: float = 1.0):
        self.model = model
        self._layers, self._head = StageLayers(model, alike), _LogprobHead(model, temperature)

    def score(self, batch: MicroBatch) -> list[np.ndarray]:
        """float32 logprobs of every sequence's completion tokens; nothing on ranks before the last stage."""
        stream = run_stages(self._layers, batch)
        if stream is None:
            return []
        return batch.split(self._head(stream, Tensor(batch.predictors), Tensor(batch.labels)).asnumpy())
