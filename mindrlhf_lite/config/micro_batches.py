"""How many micro-batches an update needs so that it fits into memory, by the plan's estimate."""

from __future__ import annotations

from dataclasses import replace

from mindrlhf_lite.config.activations import chunk_numbers
from mindrlhf_lite.config.memory_plan import memory_plan
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.shapes.model_config import ModelConfig

_MOST_CHUNKS = 32  # of logits in a device's graph, which has an operator for each: beyond, it compiles for minutes
MEMORY_SHARE = 0.8  # of what there is: the rest is for graphs, libraries and what the plan does not know


def with_micro_batches(config: Config, shape: ModelConfig, world_size: int, rank_gib: float) -> Config:
    """The configuration with actor_config.parallel_config.micro_batch_num in numbers: as given or, where it is 0 and no
    micro_batch_tokens are given, the smallest power of two, at least the number of stages, with which a rank fits into
    `rank_gib` (and a device's graphs compile soon); if none does, a completion each.
    """
    parallel = config.actor_config.parallel_config
    if parallel.micro_batch_num or config.rl_config.micro_batch_tokens:
        return config

    def fits(number: int) -> bool:
        numbered = with_number(config, number)
        plan = memory_plan(numbered, shape, world_size, rank_gib)
        fits_memory = plan.needed(config.rl_config.swap) <= MEMORY_SHARE * rank_gib * 2**30
        return fits_memory and compiles_soon(numbered, shape, world_size)

    completions = config.completions_per_update // parallel.data_degree(world_size)
    choices = [
        2**power for power in range(completions.bit_length()) if 2**power >= min(parallel.pipeline_stage, completions)
    ]
    return with_number(config, next((number for number in choices if fits(number)), completions))


def compiles_soon(config: Config, shape: ModelConfig, world_size: int) -> bool:
    """Whether a micro-batch's graphs have few enough parts."""
    dims, device = role_strategies(config, world_size)["actor"].dims, config.context.device_target
    tokens = config.micro_batch_tokens(dims.shares) // dims.context
    return device == "CPU" or tokens * shape.vocab_size // dims.tensor <= _MOST_CHUNKS * chunk_numbers(device)


def with_number(config: Config, number: int) -> Config:
    """The configuration with so many micro-batches an update."""
    parallel = replace(config.actor_config.parallel_config, micro_batch_num=number)
    return replace(config, actor_config=replace(config.actor_config, parallel_config=parallel))
