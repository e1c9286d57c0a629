"""From the configuration to every role's parallel strategy."""

from __future__ import annotations

from dataclasses import dataclass

from mindrlhf_lite.config.schema import Config, ParallelConfig, StagedParallelConfig
from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy


@dataclass(frozen=True)
class RoleStrategies:
    """Strategies of the three roles. Example: role_strategies(config, 4).actor.dims == ParallelDims(1, 2, 2)"""

    actor: Strategy
    reference: Strategy
    rollout: Strategy


def dims_of(parallel: ParallelConfig, world_size: int) -> ParallelDims:
    """A role's degrees. Tokens are shared by roles that compute whole sequences, the staged ones."""
    context = parallel.context_parallel
    copies = parallel.data_degree(world_size) * context
    shares_tokens = isinstance(parallel, StagedParallelConfig)
    return ParallelDims(copies, parallel.model_parallel, parallel.pipeline_stage, context if shares_tokens else 1)


def strategy_of(parallel: ParallelConfig, world_size: int) -> Strategy:
    layers = tuple(parallel.stage_layers) if isinstance(parallel, StagedParallelConfig) else ()
    return Strategy(dims_of(parallel, world_size), layers, splits_embedding=not parallel.vocab_emb_dp)


def role_strategies(config: Config, world_size: int) -> RoleStrategies:
    roles = (config.actor_config, config.ref_config, config.generate_config)
    return RoleStrategies(*(strategy_of(role.parallel_config, world_size) for role in roles))
