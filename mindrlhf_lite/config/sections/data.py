"""data_config: in which order prompts are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.config.setting import AT_MOST_ONE, BELOW_ONE, setting


@dataclass(frozen=True)
class Curriculum:
    """By measured pass rate."""

    column: str = setting(
        "",
        "column of the data whose values are levels of difficulty (rlhf_data.py --levels, --keep_columns): a level is "
        "drawn the more often, the nearer its measured pass rate is to one half; empty: no curriculum",
    )
    memory: float = setting(
        0.8, "what a level's pass rate keeps of earlier steps, where a step measures it anew", bounds=BELOW_ONE
    )
    floor: float = setting(
        0.1, "weight that a level has in any case, where one of pass rate 1/2 has 1 more", bounds=AT_MOST_ONE
    )


@dataclass(frozen=True)
class DataConfig:
    curriculum: Curriculum = field(default_factory=Curriculum)
