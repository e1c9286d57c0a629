"""From the configuration to every role's parallel strategy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mindrlhf_lite.config.dotted import replaced
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.sections.parallel import ParallelConfig, StagedParallelConfig
from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy


def dims_of(parallel: ParallelConfig, world_size: int) -> ParallelDims:
    """A role's degrees. Tokens are shared by roles that compute whole sequences, the staged ones."""
    context = parallel.context_parallel
    copies = parallel.data_degree(world_size) * context
    shares_tokens = isinstance(parallel, StagedParallelConfig)
    return ParallelDims(copies, parallel.model_parallel, parallel.pipeline_stage, context if shares_tokens else 1)


def strategy_of(parallel: ParallelConfig, world_size: int) -> Strategy:
    layers = tuple(parallel.stage_layers) if isinstance(parallel, StagedParallelConfig) else ()
    return Strategy(dims_of(parallel, world_size), layers, splits_embedding=not parallel.vocab_emb_dp)


def role_strategies(config: Config, world_size: int) -> dict[str, Strategy]:
    """Of every role, by its name. Example: role_strategies(config, 4)["actor"].dims == ParallelDims(1, 2, 2)"""
    return {role.name: strategy_of(role.section_of(config).parallel_config, world_size) for role in config.roles}


def saved_strategy(config: Config, world_size: int) -> Strategy:
    """How the actor's checkpoints lie on the ranks."""
    strategy = role_strategies(config, world_size)["actor"]
    is_shared = config.actor_config.enable_parallel_optimizer and strategy.dims.copies > 1
    return replace(strategy, splits_data=is_shared)


def without_degrees(config: Config) -> Config:
    """The run with every role whole on each rank: data parallelism."""
    degrees = {"data_parallel": 0, "model_parallel": 1, "pipeline_stage": 1, "context_parallel": 1}
    values: dict[str, Any] = {
        f"{role.section}.parallel_config.{name}": degree for role in config.roles for name, degree in degrees.items()
    }
    return replaced(config, values | {"actor_config.parallel_config.stage_layers": []})
