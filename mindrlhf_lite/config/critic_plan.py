"""What a critic adds to the memory plan: its weights, gradients and moments, and the passes over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mindrlhf_lite.config.roles import CRITIC, UPDATE_CRITIC
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.parallel.layout import Strategy
from mindrlhf_lite.shapes.parameters import FLOAT32_BYTES
from mindrlhf_lite.types import VALUES

OfPass = Callable[[bool, str], int]  # (whether a backward pass follows, what of the layers is kept) -> bytes


def critic_groups(
    config: Config, strategy: Strategy, weights: int, numbers: Callable[[Strategy], int]
) -> dict[str, int]:
    """Args: weights: bytes of its weights; numbers: of the fullest rank under a strategy. Nothing without a critic."""
    if CRITIC not in config.roles:
        return {}
    whole, section = numbers(strategy), config.critic_config
    is_shared = section.enable_parallel_optimizer and strategy.dims.copies > 1
    copies = is_shared or config.dtypes(CRITIC.name)[1] != "float32"
    own = numbers(replace(strategy, splits_data=True)) if is_shared else whole
    return {
        CRITIC.name: weights,
        "critic_gradients": FLOAT32_BYTES * whole,
        "critic_optimizer": (2 + copies) * FLOAT32_BYTES * own,
    }


def critic_activations(config: Config, of_pass: OfPass) -> dict[str, int]:
    """By phase."""
    if CRITIC not in config.roles:
        return {}
    recompute = config.critic_config.recompute_config
    keeps = "" if recompute.recompute else "products" if recompute.select_recompute else "all"
    return {VALUES: of_pass(False, ""), UPDATE_CRITIC: of_pass(True, keeps)}
