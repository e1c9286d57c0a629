"""A head that gives a token one number: reward models and critics, in the form of Hugging Face's
ForSequenceClassification with one label (`ModelConfig.has_score`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mindspore import Tensor, nn, ops

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import Read, WeightReader
from mindrlhf_lite.models.precision import full
from mindrlhf_lite.parallel.collectives import gather_tokens, join_tokens
from mindrlhf_lite.parallel.layout import FINAL_NORM, Box, slices
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import SCORE

_matmul = ops.MatMul(transpose_b=True)


class _PartOfGradient(nn.Cell):
    """The identity; of the gradient, which every tensor rank has whole, each passes on its part of their sum."""

    def __init__(self, ranks: int):
        super().__init__(auto_prefix=False)
        self.share = 1.0 / ranks

    def construct(self, x: Tensor) -> Tensor:
        return x

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor]:
        return (gradient * self.share,)


def names_of_score(model: Decoder) -> tuple[str, ...]:
    """Names of the parameters that `Scores` computes with; () before the last stage."""
    return () if model.final_norm is None else (FINAL_NORM, SCORE)


class Scores(nn.Cell):
    """Scores of tokens of a micro-batch, float32, from what the last layer returned.

    Ranks that share a sequence's tokens compute their part of the places, and end up with all scores.
    """

    def __init__(self, model: Decoder):
        super().__init__(auto_prefix=False)
        mesh = model.mesh
        self.model, self.parts, self.index = model, mesh.dims.context, mesh.context_index
        self.gather_hidden, self.join = gather_tokens(mesh.context), join_tokens(mesh.context)
        self.part_of_gradient = nn.Identity() if mesh.tensor is None else _PartOfGradient(mesh.dims.tensor)

    def construct(self, stream: Tensor, places: Tensor) -> Tensor:
        """Args: stream: this rank's tokens after the last layer; places int32 [N]: in the whole stream, N a multiple of
        the ranks that share it. Returns [N].
        """
        hidden = self.gather_hidden(self.part_of_gradient(self.model.norm(stream)))
        if self.parts > 1:
            count = places.shape[0] // self.parts
            places = places[self.index * count : (self.index + 1) * count]
        chosen = full(ops.gather(hidden, places, 0))
        return self.join(_matmul(chosen, full(self.model.score)).reshape(-1))


def scoring_shape(folder: str | Path) -> ModelConfig:
    """Of a model with a score head that starts from the model in a folder, whatever head that one has."""
    return ModelConfig.from_dir(folder).scoring


def scoring_reader(folder: str | Path, seed: int = 0) -> Read:
    """The weights of `scoring_shape`: of a language model the decoder, with a new head.

    Args: seed: of a new head, from N(0, 1 / (hidden_size + 1)), as reward models are begun with.
    """
    shape = ModelConfig.from_dir(folder)
    reader = WeightReader(folder, shape)
    if shape.has_score:
        return reader.read
    width = shape.hidden_size
    new = np.random.default_rng(seed).standard_normal((1, width)).astype(np.float32) / np.float32((width + 1) ** 0.5)

    def read(name: str, box: Box) -> np.ndarray:
        return new[slices(box)] if name == SCORE else reader.read(name, box)

    return read
