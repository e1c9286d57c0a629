"""reward_config.reward_model: a frozen model whose score of a completion is part of its reward."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.config.sections.parallel import StagedParallelConfig
from mindrlhf_lite.config.setting import FLOAT_TYPES_OR_EMPTY, FREE, setting


@dataclass(frozen=True)
class RewardModelRole:
    load: str = setting(
        "",
        "folder of a reward model (ForSequenceClassification with one label); without a template it has the actor's "
        "vocabulary; python -m mindrlhf_lite.reward_model makes one; empty: none",
        resume=FREE,
    )
    model_config: str = setting("", "as ref_config.model_config", resume=FREE)
    template: str = setting(
        "",
        "what it reads, in tokens of its own tokenizer: a text with {completion} and, if wanted, {prompt} (as "
        "rendered) and columns that rlhf_data.py --keep_columns kept; or chat:NAME, its chat template with that column "
        "(or prompt) as the user's turn; the last seq_length tokens count; empty: the policy's tokens",
    )
    weight: float = setting(1.0, "of its score, beside those of verifiers; added after shaping")
    normalise: str = setting(
        "none",
        "batch: of a step's scores subtract their mean, and divide by their standard deviation",
        ("none", "batch"),
    )
    compute_dtype: str = setting("", "as actor_config.compute_dtype; empty: the actor's", FLOAT_TYPES_OR_EMPTY)
    param_dtype: str = setting("", "type that the parameters are stored as; empty: compute_dtype", FLOAT_TYPES_OR_EMPTY)
    parallel_config: StagedParallelConfig = field(default_factory=StagedParallelConfig)
