"""ref_config: the frozen model that the KL is measured to."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.config.sections.parallel import StagedParallelConfig
from mindrlhf_lite.config.setting import FLOAT_TYPES_OR_EMPTY, FREE, NOT_NEGATIVE, POSITIVE, ROUNDING, SHARE, setting


@dataclass(frozen=True)
class RefConfig:
    load: str = setting("", "Hugging Face folder of the reference model; empty: actor_config.load", resume=FREE)
    model_config: str = setting(
        "", "as actor_config.model_config: types and strategies of the reference; empty: its own settings", resume=FREE
    )
    ref_model_batch_size: int = setting(
        0,
        "sequences a forward pass of a rank; 0: as many as an actor micro-batch",
        bounds=NOT_NEGATIVE,
        unit="sequences",
        resume=ROUNDING,
    )
    sync_ref_model: bool = setting(False, "move the reference towards the actor now and then")
    ref_model_sync_steps: int = setting(100, "steps between two such moves", bounds=POSITIVE, unit="steps")
    ref_model_mixup_alpha: float = setting(0.6, "the actor's share in the reference after it", bounds=SHARE)
    compute_dtype: str = setting("", "as actor_config.compute_dtype; empty: the actor's", FLOAT_TYPES_OR_EMPTY)
    param_dtype: str = setting("", "type that the parameters are stored as; empty: compute_dtype", FLOAT_TYPES_OR_EMPTY)
    parallel_config: StagedParallelConfig = field(default_factory=StagedParallelConfig)
