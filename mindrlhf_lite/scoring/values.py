"""A critic's values of completion tokens."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, jit

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.score_head import Scores
from mindrlhf_lite.parallel.compiled import CompiledCell
from mindrlhf_lite.scoring.batches import MicroBatch
from mindrlhf_lite.scoring.stages import StageLayers, run_stages


class _ValueHead(CompiledCell):
    def __init__(self, model: Decoder):
        super().__init__()
        self.scores = Scores(model)

    @jit
    def construct(self, stream: Tensor, predictors: Tensor) -> Tensor:
        return self.scores(stream, predictors)


class ValueScorer:
    """As `LogprobScorer`, of a model with a score head: what it gives before each token is written.

    Args: layers: the model's; their graphs serve here too.
    """

    is_of_tokens = True

    def __init__(self, model: Decoder, layers: StageLayers):
        self.model = model
        self._layers, self._head = layers, _ValueHead(model)

    def score(self, batch: MicroBatch) -> list[np.ndarray]:
        """float32 values of every sequence's completion tokens; nothing on ranks before the last stage."""
        stream = run_stages(self._layers, batch)
        return [] if stream is None else batch.split(self._head(stream, Tensor(batch.predictors)).asnumpy())
