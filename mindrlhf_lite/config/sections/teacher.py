"""teacher_config: the frozen model that the actor is distilled from (rl_config.distillation)."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.config.sections.parallel import StagedParallelConfig
from mindrlhf_lite.config.setting import FLOAT_TYPES_OR_EMPTY, FREE, setting


@dataclass(frozen=True)
class TeacherConfig:
    load: str = setting("", "Hugging Face folder of the teacher: of any size, of the actor's vocabulary", resume=FREE)
    model_config: str = setting(
        "", "as actor_config.model_config: types and strategies of the teacher, and its shape in a plan", resume=FREE
    )
    compute_dtype: str = setting("", "as actor_config.compute_dtype; empty: the actor's", FLOAT_TYPES_OR_EMPTY)
    param_dtype: str = setting("", "type that the parameters are stored as; empty: compute_dtype", FLOAT_TYPES_OR_EMPTY)
    parallel_config: StagedParallelConfig = field(default_factory=StagedParallelConfig)
