"""data_config: in which order prompts are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.config.setting import AT_MOST_ONE, BELOW_ONE, setting


@dataclass(frozen=True)
class Curriculum:
    """By measured pass rate."""

    column: str = setting(
        "",
        "column of the data whose values are levels (rlhf_data.py --levels, --keep_columns), drawn the more often, the "
        "nearer their measured pass rates are to one half; empty: none",
    )
    memory: float = setting(0.8, "what a pass rate keeps of earlier steps", bounds=BELOW_ONE)
    floor: float = setting(0.1, "a level's weight is this + 4 p (1 - p)", bounds=AT_MOST_ONE)


@dataclass(frozen=True)
class DataConfig:
    curriculum: Curriculum = field(default_factory=Curriculum)
