"""critic_config: the second trained model, which values tokens (rl_config.advantage: gae)."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.config.sections.actor import LrScheduleConfig, OptimizerConfig, RecomputeConfig
from mindrlhf_lite.config.sections.parallel import StagedParallelConfig
from mindrlhf_lite.config.setting import FLOAT_TYPES_OR_EMPTY, FREE, NOT_NEGATIVE, ROUNDING, setting


@dataclass(frozen=True)
class CriticConfig:
    load: str = setting(
        "",
        "Hugging Face folder that the critic starts from: a language model, which gets a head for values, or a model "
        "for sequence classification with one label; empty: actor_config.load",
        resume=FREE,
    )
    model_config: str = setting(
        "", "as actor_config.model_config: types and strategies of the critic, and its shape in a plan", resume=FREE
    )
    warmup_steps: int = setting(
        0, "first steps in which the critic learns and the actor does not", bounds=NOT_NEGATIVE, unit="steps"
    )
    compute_dtype: str = setting("", "as actor_config.compute_dtype; empty: the actor's", FLOAT_TYPES_OR_EMPTY)
    param_dtype: str = setting("", "type that the parameters are stored as; empty: compute_dtype", FLOAT_TYPES_OR_EMPTY)
    parallel_config: StagedParallelConfig = field(default_factory=StagedParallelConfig)
    enable_parallel_optimizer: bool = setting(
        False, "share the optimizer's state among the data-parallel ranks (ZeRO stage 1)", resume=ROUNDING
    )
    recompute_config: RecomputeConfig = field(default_factory=RecomputeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr_schedule: LrScheduleConfig = field(default_factory=LrScheduleConfig)
