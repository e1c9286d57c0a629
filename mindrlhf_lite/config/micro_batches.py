"""How many micro-batches an update needs so that it fits into memory, by the plan's estimate."""

from __future__ import annotations

from dataclasses import replace

from mindrlhf_lite.config.memory_plan import memory_plan
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.shapes.model_config import ModelConfig

MEMORY_SHARE = 0.8  # of what there is: the rest is for graphs, libraries and what the plan does not know


def with_micro_batches(config: Config, shape: ModelConfig, world_size: int, rank_gib: float) -> Config:
    """The configuration with actor_config.parallel_config.micro_batch_num in numbers: as given or, where it is 0 and no
    micro_batch_tokens are given, the smallest power of two, at least the number of stages, with which a rank fits into
    `rank_gib`; if none does, a completion each.
    """
    parallel = config.actor_config.parallel_config
    if parallel.micro_batch_num or config.rl_config.micro_batch_tokens:
        return config

    def fits(number: int) -> bool:
        plan = memory_plan(with_number(config, number), shape, world_size, rank_gib)
        return plan.needed(config.rl_config.swap) <= MEMORY_SHARE * rank_gib * 2**30

    completions = config.completions_per_update // parallel.data_degree(world_size)
    choices = [
        2**power for power in range(completions.bit_length()) if 2**power >= min(parallel.pipeline_stage, completions)
    ]
    return with_number(config, next((number for number in choices if fits(number)), completions))


def with_number(config: Config, number: int) -> Config:
    """The configuration with so many micro-batches an update."""
    parallel = replace(config.actor_config.parallel_config, micro_batch_num=number)
    return replace(config, actor_config=replace(config.actor_config, parallel_config=parallel))
