"""Low-rank adapters beside the linears of a decoder (LoRA, arXiv:2106.09685): y = x W^T + scale * (x A^T) B^T, with A
[rank, in] and B [out, rank] trained, and everything else frozen. Names of modules and parameters are peft's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ALL_LINEAR = "all-linear"
DOWN, UP = "lora_A", "lora_B"  # of A and B


@dataclass(frozen=True)
class Adapters:
    """Example: Adapters(rank=8, alpha=16.0, targets=("q_proj", "v_proj")).scale == 2.0"""

    rank: int
    alpha: float
    targets: tuple[str, ...]  # linears by the last part of their modules' names, sorted
    is_rank_stabilised: bool = False  # alpha over the rank's root (rsLoRA, arXiv:2312.03732)
    is_alone: bool = False  # a table of parameters has these only: what of such a model is trained, moved and saved

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.is_rank_stabilised else self.rank)


def adapter_name(weight: str, part: str) -> str:
    """Example: adapter_name("mlp.up_proj.weight", DOWN) is "mlp.up_proj.lora_A.weight", its A."""
    return f"{weight.removesuffix('weight')}{part}.weight"


def is_adapter(name: str) -> bool:
    return f".{DOWN}." in name or f".{UP}." in name
