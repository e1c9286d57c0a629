"""Builds the three roles (actor, reference, rollout) under their own parallel strategies, and what moves weights
between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import WeightReader
from mindrlhf_lite.parallel.layout import Strategy, buffers_of_rank, fill_buffers
from mindrlhf_lite.parallel.mesh import Mesh, RoleMesh, gather_objects
from mindrlhf_lite.reshard.executor import Resharder
from mindrlhf_lite.reshard.plan import lower_bound_bytes, make_plan
from mindrlhf_lite.reshard.transports import (
    CollectiveTransport,
    SharedMemoryTransport,
    Transport,
    is_shared_memory_allowed,
)
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.rollout.protocol import RolloutEngine
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.swap.phases import phases
from mindrlhf_lite.swap.residency import Contents, Residency
from mindrlhf_lite.swap.stores import FileStore, HostStore
from mindrlhf_lite.trainer.actor import Actor, LogprobScorer, LossOptions
from mindrlhf_lite.trainer.optimizer import OPTIMIZERS


@dataclass
class Roles:
    """The models of this rank. `reference` is None when beta is 0; `policy` scores with the actor's own weights."""

    model_config: ModelConfig
    actor: Actor
    policy: LogprobScorer
    reference: LogprobScorer | None
    rollout: RolloutEngine
    rollout_mesh: RoleMesh
    resharder: Resharder
    reshard_bound_bytes: int  # least that all ranks together must receive
    residency: Residency


def make_residency(config: Config) -> Residency:
    """The residency manager of this rank, with a store if the configuration swaps."""
    rl, store = config.rl_config, None
    if rl.swap:
        folder = Path(rl.swap_dir or f"{rl.output_dir}/swap")
        store = FileStore(folder) if config.context.device_target == "CPU" else HostStore()
    return Residency(phases(rl.reshard_mem_opt_level), store)


def make_transport(config: Config, mesh: Mesh) -> Transport:
    """The transport that `reshard_transport` names; "auto" takes shared memory where all ranks are on this CPU host and
    may read each other.
    """
    wanted = config.rl_config.reshard_transport
    if wanted == "auto":
        works = gather_objects(
            mesh.world, (mesh.host, config.context.device_target == "CPU" and is_shared_memory_allowed())
        )
        wanted = (
            "shared_memory"
            if all(allowed for _, allowed in works) and len({host for host, _ in works}) == 1
            else "collective"
        )
    return (
        SharedMemoryTransport(mesh.world) if wanted == "shared_memory" else CollectiveTransport(mesh.pairs(), mesh.rank)
    )


def build_roles(config: Config, mesh: Mesh) -> Roles:
    """Loads this rank's shards and builds every role that the configuration needs; each is swapped out before the next
    is built.
    """
    rl, optimizer, strategies = (
        config.rl_config,
        config.actor_config.optimizer,
        role_strategies(config, mesh.world_size),
    )
    shape, residency = ModelConfig.from_dir(config.actor_config.load), make_residency(config)
    reader = WeightReader(config.actor_config.load, shape)

    parallel = config.actor_config.parallel_config
    actor_mesh = mesh.role(strategies.actor.dims, shape.num_key_value_heads)
    model = _model(
        shape, reader, mesh.rank, strategies.actor, actor_mesh, rl.seq_length, True, parallel.use_seq_parallel
    )
    loss = LossOptions(rl.beta, rl.epsilon_low, rl.epsilon_high, config.updates_per_step > 1, rl.rollout_is_cap)
    options = OPTIMIZERS[optimizer.type](
        optimizer.adam_beta1, optimizer.adam_beta2, optimizer.eps, optimizer.weight_decay, optimizer.max_grad_norm
    )
    actor = Actor(
        model,
        loss,
        options,
        config.actor_config.enable_parallel_optimizer,
        config.actor_config.recompute_config.recompute,
    )
    residency.add("actor", model.parameters_in_order, Contents.CHANGES)
    residency.add("gradients", actor.optimizer.gradients, Contents.ZERO)
    residency.add("optimizer", actor.optimizer.parameters, Contents.CHANGES)

    reference = None
    if rl.beta > 0:
        reference_dir = config.ref_config.load or config.actor_config.load
        reference_shape = ModelConfig.from_dir(reference_dir)
        if reference_shape.vocab_size != shape.vocab_size:
            raise UserError(
                f"ref_config.load={reference_dir}: vocabulary of {reference_shape.vocab_size}, the actor's has "
                f"{shape.vocab_size}"
            )
        if reference_dir != config.actor_config.load:
            reader = WeightReader(reference_dir, reference_shape)
        reference_mesh = mesh.role(strategies.reference.dims, reference_shape.num_key_value_heads)
        is_split = config.ref_config.parallel_config.use_seq_parallel
        is_alike = (reference_shape, strategies.reference, is_split) == (
            shape,
            strategies.actor,
            parallel.use_seq_parallel,
        )
        reference = LogprobScorer(
            _model(
                reference_shape, reader, mesh.rank, strategies.reference, reference_mesh, rl.seq_length, False, is_split
            ),
            actor.layers if is_alike else None,
        )
        residency.add("reference", reference.model.parameters_in_order, Contents.FROZEN)

    rollout_mesh = mesh.role(strategies.rollout.dims, shape.num_key_value_heads)
    rollout_model = _model(shape, None, mesh.rank, strategies.rollout, rollout_mesh, rl.seq_length, False)
    residency.add("rollout", rollout_model.parameters_in_order, Contents.REBUILT)  # by the first reshard
    rollout = _engine(config, rollout_model, strategies.rollout, rollout_mesh, mesh.rank)
    residency.add("kv_cache", rollout.cache_parameters, Contents.SCRATCH)

    plan = make_plan(shape, strategies.actor, strategies.rollout, mesh.world_size)
    bound = int(lower_bound_bytes(shape, strategies.actor, strategies.rollout, mesh.world_size).sum())
    resharder = Resharder(
        plan, mesh.rank, mesh.world, rollout.named_weights(), make_transport(config, mesh), rl.reshard_bucket_mb << 20
    )
    return Roles(
        shape, actor, LogprobScorer(model, actor.layers), reference, rollout, rollout_mesh, resharder, bound, residency
    )


def _engine(config: Config, model: Decoder, strategy: Strategy, mesh: RoleMesh, rank: int) -> RolloutEngine:
    generate, rl = config.generate_config, config.rl_config
    if not generate.use_vllm:
        return NativeEngine(model, generate.max_num_seqs, rl.seq_length, rl.length_buckets)
    length = generate.max_model_len or rl.seq_length
    if config.context.device_target == "Ascend":
        from mindrlhf_lite.rollout.vllm.ascend import AscendVllmEngine  # not run here

        options = {
            "max_model_len": length,
            "max_num_seqs": generate.max_num_seqs,
            "max_num_batched_tokens": generate.max_num_batched_tokens,
            "block_size": generate.block_size,
            "gpu_memory_utilization": generate.gpu_memory_utilization,
        }
        buffers = buffers_of_rank(model.config, strategy, rank)
        return AscendVllmEngine(model, buffers, mesh, config.actor_config.load, options)
    from mindrlhf_lite.rollout.vllm.engine import VllmEngine, VllmOptions  # heavy, and an extra

    cache_bytes = int(generate.kv_cache_gb * 2**30)
    sizes = (generate.max_num_seqs, generate.max_num_batched_tokens, generate.block_size, cache_bytes)
    return VllmEngine(model, config.actor_config.load, VllmOptions(length, *sizes))


def _model(
    shape: ModelConfig,
    reader: WeightReader | None,
    rank: int,
    strategy: Strategy,
    mesh: RoleMesh,
    max_length: int,
    trainable: bool,
    is_sequence_split: bool = False,
) -> Decoder:
    """This rank's share of a model, zeros without a reader."""
    buffers = buffers_of_rank(shape, strategy, rank)
    weights = (
        {b.name: np.zeros(b.shape, np.float32) for b in buffers}
        if reader is None
        else fill_buffers(buffers, reader.read)
    )
    return Decoder(shape, weights, trainable, max_length, mesh, strategy, is_sequence_split)
