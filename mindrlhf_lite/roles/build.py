"""Builds the three roles (actor, reference, rollout) under their own parallel strategies, and what moves weights
between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.learner.adamw import OPTIMIZERS
from mindrlhf_lite.learner.loss_scale import LossScale
from mindrlhf_lite.learner.policy_loss import Objective
from mindrlhf_lite.learner.trained_model import Actor
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import WeightReader
from mindrlhf_lite.models.precision import Precision
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
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.scoring.stages import Keeps
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.swap.phases import optimizer_part, phase_of_part, phases
from mindrlhf_lite.swap.residency import Contents, Residency
from mindrlhf_lite.swap.stores import FileStore, HostStore


@dataclass
class TrainedRoles:
    """The models of this rank that an update needs. `reference` is None when beta is 0; `policy` scores with the
    actor's own weights.
    """

    model_config: ModelConfig
    actor: Actor
    policy: LogprobScorer
    reference: LogprobScorer | None
    residency: Residency

    @contextmanager
    def saved(self, has_state: bool = True) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """(the actor's weights by buffer name, whole and float32; the optimizer's moments), of this rank, for as long
        as the context lasts. The data-parallel ranks open it together.

        Args: has_state: whether the moments are wanted.
        """
        optimizer, residency = self.actor.optimizer, self.residency
        if phase_of_part("save", 0) not in residency.phases:
            with residency.phase("save"):
                yield optimizer.master_weights(), optimizer.state() if has_state else {}
            return
        weights: dict[str, np.ndarray] = {}
        state: dict[str, np.ndarray] = {}
        for part in range(len(optimizer.parts)):  # copies: a part's memory is given back
            with residency.phase(phase_of_part("save", part)):
                weights |= {name: values.copy() for name, values in optimizer.master_weights(part).items()}
                state |= {name: values.copy() for name, values in optimizer.state(part).items()} if has_state else {}
        with residency.phase("save"):
            yield weights, state

    def restore(self, weights: dict[str, np.ndarray], state: dict[str, np.ndarray]) -> None:
        """Sets what `saved` gave."""
        optimizer, is_in_parts = self.actor.optimizer, phase_of_part("restore", 0) in self.residency.phases
        for part in range(len(optimizer.parts)):
            with self.residency.phase(phase_of_part("restore", part) if is_in_parts else "restore"):
                optimizer.load_weights(weights, part)
                optimizer.load_state(state, part)


@dataclass
class Roles(TrainedRoles):
    """All models of this rank."""

    rollout: RolloutEngine
    rollout_mesh: RoleMesh
    resharder: Resharder  # from the actor to the rollout engine
    to_reference: Resharder | None  # from the actor to the reference, where that follows it
    reshard_bound_bytes: int  # least that all ranks together must receive


def make_residency(config: Config) -> Residency:
    """The residency manager of this rank, with a store if the configuration swaps."""
    rl, store = config.rl_config, None
    if rl.swap:
        is_file = rl.swap_store == "file" or (rl.swap_store == "auto" and config.context.device_target == "CPU")
        store = FileStore(Path(rl.swap_dir or f"{rl.output_dir}/swap")) if is_file else HostStore()
    return Residency({}, store)


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
    return SharedMemoryTransport(mesh.world) if wanted == "shared_memory" else CollectiveTransport(mesh)


def build_trained_roles(
    config: Config, mesh: Mesh, shape: ModelConfig | None = None, has_reference: bool = True
) -> TrainedRoles:
    """Loads this rank's shards and builds the roles of an update; each is swapped out before the next is built.

    Args: shape: of a model without weights, all zeros, in the place of actor_config.load; has_reference: whether a
    reference is built where beta is not 0.
    """
    residency, reader = make_residency(config), None
    if shape is None:
        shape = ModelConfig.from_dir(config.actor_config.load)
        reader = WeightReader(config.actor_config.load, shape)
    actor = _build_actor(config, mesh, shape, reader, residency)
    reference = None
    if config.rl_config.beta > 0 and has_reference:
        reference = _build_reference(config, mesh, shape, reader, actor)
        contents = Contents.CHANGES if config.ref_config.sync_ref_model else Contents.FROZEN
        residency.add("reference", reference.model.parameters_in_order, contents)
    policy = LogprobScorer(actor.model, actor.layers, config.policy_temperature)
    return TrainedRoles(shape, actor, policy, reference, residency)


def _build_actor(
    config: Config, mesh: Mesh, shape: ModelConfig, reader: WeightReader | None, residency: Residency
) -> Actor:
    rl, optimizer, strategies = (
        config.rl_config,
        config.actor_config.optimizer,
        role_strategies(config, mesh.world_size),
    )
    parallel, recompute = config.actor_config.parallel_config, config.actor_config.recompute_config
    actor_mesh = mesh.role(strategies.actor.dims, shape.num_key_value_heads)
    precision = _precision(config, "actor")
    model = _model(
        shape,
        reader,
        mesh.rank,
        strategies.actor,
        actor_mesh,
        rl.seq_length,
        precision,
        True,
        parallel.use_seq_parallel,
    )
    options = OPTIMIZERS[optimizer.type](
        optimizer.adam_beta1, optimizer.adam_beta2, optimizer.eps, optimizer.weight_decay, optimizer.max_grad_norm
    )
    actor = Actor(
        model,
        Objective.of(config),
        options,
        config.actor_config.enable_parallel_optimizer,
        Keeps.of(recompute.recompute, recompute.select_recompute),
        _loss_scale(config),
        part_bytes=optimizer.opt_offload_bucket_mb << 20 if optimizer.opt_offload else 0,
    )
    if reader is not None and precision.param != "float32":  # masters keep what the model rounds
        weights = fill_buffers(model.buffers, reader.read)
        for part in range(len(actor.optimizer.parts)):
            actor.optimizer.load_weights(weights, part)
    residency.add("actor", model.parameters_in_order, Contents.CHANGES)
    residency.add("gradients", actor.optimizer.gradients, Contents.ZERO)
    num_parts = len(actor.optimizer.parts) if optimizer.opt_offload else 0
    residency.phases = phases(
        rl.reshard_mem_opt_level, config.ref_config.sync_ref_model, num_parts, config.engine_copies_weights
    )
    for part in range(num_parts):
        residency.add(optimizer_part(part), actor.optimizer.parameters_of(part), Contents.CHANGES)
    if not num_parts:
        residency.add("optimizer", actor.optimizer.parameters, Contents.CHANGES)
    return actor


def _build_reference(
    config: Config, mesh: Mesh, shape: ModelConfig, reader: WeightReader | None, actor: Actor
) -> LogprobScorer:
    strategies, folder = role_strategies(config, mesh.world_size), config.ref_config.load or config.actor_config.load
    own_shape = shape if reader is None else ModelConfig.from_dir(folder)
    if own_shape.vocab_size != shape.vocab_size:
        raise UserError(
            f"ref_config.load={folder}: vocabulary of {own_shape.vocab_size}, the actor's has {shape.vocab_size}"
        )
    if reader is not None and folder != config.actor_config.load:
        reader = WeightReader(folder, own_shape)
    own_mesh = mesh.role(strategies.reference.dims, own_shape.num_key_value_heads)
    is_split, precision = config.ref_config.parallel_config.use_seq_parallel, _precision(config, "ref")
    actors = config.actor_config.parallel_config.use_seq_parallel
    is_alike = (own_shape, strategies.reference, is_split, precision) == (
        shape,
        strategies.actor,
        actors,
        actor.model.precision,
    )
    model = _model(
        own_shape,
        reader,
        mesh.rank,
        strategies.reference,
        own_mesh,
        config.rl_config.seq_length,
        precision,
        False,
        is_split,
    )
    return LogprobScorer(model, actor.layers if is_alike else None, config.policy_temperature)


def build_roles(config: Config, mesh: Mesh, shape: ModelConfig | None = None) -> Roles:
    """`build_trained_roles`, and the rollout engine with what moves the trained weights into it."""
    trained, rl, strategies = (
        build_trained_roles(config, mesh, shape),
        config.rl_config,
        role_strategies(config, mesh.world_size),
    )
    shape, residency, reference = trained.model_config, trained.residency, trained.reference
    rollout_mesh = mesh.role(strategies.rollout.dims, shape.num_key_value_heads)
    rollout_precision = _precision(config, "generate")
    rollout_model = _model(
        shape, None, mesh.rank, strategies.rollout, rollout_mesh, rl.seq_length, rollout_precision, False
    )
    residency.add("rollout", rollout_model.parameters_in_order, Contents.REBUILT)  # by the first reshard
    rollout = _engine(config, rollout_model, strategies.rollout, rollout_mesh, mesh.rank)
    if rollout.own_weights:
        residency.add("engine_weights", rollout.own_weights, Contents.REBUILT)
    residency.add("kv_cache", rollout.cache_parameters, Contents.SCRATCH)

    transport = make_transport(config, mesh)

    def resharder_to(strategy: Strategy, destination: Decoder) -> Resharder:
        plan, precisions = (
            make_plan(shape, strategies.actor, strategy, mesh.world_size),
            (trained.actor.model.precision, destination.precision),
        )
        weights, bucket_bytes = destination.named_weights(), rl.reshard_bucket_mb << 20
        return Resharder(plan, mesh.rank, mesh.world, weights, transport, bucket_bytes, precisions)

    bound = int(lower_bound_bytes(shape, strategies.actor, strategies.rollout, mesh.world_size).sum())
    to_reference = None
    if config.ref_config.sync_ref_model and reference is not None:
        if reference.model.config != shape:
            raise UserError(
                "ref_config.sync_ref_model=true: ref_config.load is a model of another shape than the actor"
            )
        to_reference = resharder_to(strategies.reference, reference.model)
    resharder = resharder_to(strategies.rollout, rollout_model)
    return Roles(
        **vars(trained),
        rollout=rollout,
        rollout_mesh=rollout_mesh,
        resharder=resharder,
        to_reference=to_reference,
        reshard_bound_bytes=resharder.in_bytes(bound),
    )


def _precision(config: Config, role: str) -> Precision:
    return Precision.here(*config.dtypes(role), config.has_fused_kernels(role))


def _loss_scale(config: Config) -> LossScale | None:
    wanted = config.actor_config.loss_scale
    if "float16" not in config.dtypes("actor"):
        return None
    return LossScale(wanted.loss_scale_value, wanted.scale_factor, wanted.scale_window)


def _engine(config: Config, model: Decoder, strategy: Strategy, mesh: RoleMesh, rank: int) -> RolloutEngine:
    generate, rl = config.generate_config, config.rl_config
    slots = config.rollout_slots(strategy.dims.data)
    if not generate.use_vllm:
        return NativeEngine(model, slots, rl.seq_length, rl.length_buckets)
    length = min(generate.max_model_len or rl.seq_length, rl.seq_length)
    if config.context.device_target == "Ascend":
        from mindrlhf_lite.rollout.vllm.ascend import AscendVllmEngine  # not run here

        options = {
            "max_model_len": length,
            "max_num_seqs": slots,
            "max_num_batched_tokens": generate.max_num_batched_tokens,
            "block_size": generate.block_size,
            "gpu_memory_utilization": generate.gpu_memory_utilization,
        }
        buffers = buffers_of_rank(model.config, strategy, rank)
        return AscendVllmEngine(model, buffers, mesh, config.actor_config.load, options)
    from mindrlhf_lite.rollout.vllm.engine import VllmEngine, VllmOptions  # heavy, and an extra

    cache_bytes = int(generate.kv_cache_gb * 2**30)
    sizes = (slots, generate.max_num_batched_tokens, generate.block_size, cache_bytes)
    return VllmEngine(model, config.actor_config.load, VllmOptions(length, *sizes))


def _model(
    shape: ModelConfig,
    reader: WeightReader | None,
    rank: int,
    strategy: Strategy,
    mesh: RoleMesh,
    max_length: int,
    precision: Precision,
    trainable: bool,
    is_sequence_split: bool = False,
) -> Decoder:
    """This rank's share of a model, zeros without a reader."""
    buffers = buffers_of_rank(shape, strategy, rank)
    weights = None if reader is None else fill_buffers(buffers, reader.read)
    return Decoder(shape, weights, trainable, max_length, mesh, strategy, is_sequence_split, precision)
