"""The critic: a second trained model, with a head that values tokens in the place of logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.hf_weights import Read
from mindrlhf_lite.models.score_head import scoring_reader
from mindrlhf_lite.parallel.layout import Box
from mindrlhf_lite.scoring.values import ValueScorer
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import SCORE


@dataclass(frozen=True)
class Critic:
    """`values` scores with the weights that `trained` has."""

    trained: TrainedModel
    values: ValueScorer


def critic_reader(folder: str | Path) -> Read:
    """The weights that a critic starts from; of a language model with a head of zeros: no value is wrong by chance."""
    read, is_new = scoring_reader(folder), not ModelConfig.from_dir(folder).has_score

    def read_valuing(name: str, box: Box) -> np.ndarray:
        if is_new and name == SCORE:
            return np.zeros([stop - start for start, stop in box], np.float32)
        return read(name, box)

    return read_valuing
