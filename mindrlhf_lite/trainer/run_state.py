"""What of a run changes besides weights and moments, and goes into its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.data.curriculum import Sampler
from mindrlhf_lite.evaluation.accuracy import Evaluation
from mindrlhf_lite.observe.health import History
from mindrlhf_lite.trainer.kl_coefficient import KlCoefficient
from mindrlhf_lite.trainer.learning_rate import LearningRate


@dataclass
class RunState:
    """How far a run has come, and what its next step takes."""

    sampler: Sampler
    schedule: LearningRate
    kl: KlCoefficient
    evaluations: dict[str, Evaluation] = field(default_factory=dict)  # "before", "step_20", ..., "after"
    health: History = field(default_factory=History)
