"""Builds a run's models from the table of roles (config/roles.py), each under its own parallel strategy, and what moves
weights between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mindrlhf_lite.config.roles import ACTOR, ROLLOUT, RoleSpec, following_roles, phases_of_run, scoring_roles
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.sections.parallel import StagedParallelConfig
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.loss_scale import LossScale
from mindrlhf_lite.learner.policy_loss import Objective, PolicyLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import WeightReader
from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.native.library import library, set_up, threads_of_a_rank
from mindrlhf_lite.parallel.layout import Strategy, buffers_of_rank, fill_buffers
from mindrlhf_lite.parallel.mesh import Mesh
from mindrlhf_lite.reshard.executor import Resharder
from mindrlhf_lite.reshard.plan import lower_bound_bytes, make_plan
from mindrlhf_lite.roles.engines import make_engine
from mindrlhf_lite.roles.memory import make_residency, make_transport
from mindrlhf_lite.roles.models import Roles, TrainedRoles
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.scoring.stages import Keeps
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.swap.phases import optimizer_part
from mindrlhf_lite.swap.residency import Contents, Residency


def kernels_of_run(config: Config) -> str:
    """What its models compute with on CPU, in words; "" elsewhere. Call it after MindSpore is imported."""
    if config.context.device_target != "CPU":
        return ""
    if config.context.native_kernels == "off":
        return "MindSpore's (context.native_kernels=off)"
    roles = [role.name for role in config.roles if role.is_used(config)]
    others = [name for name in roles if not config.wants_native_kernels(name)]
    if len(others) == len(roles):
        return "MindSpore's (native ones are for float32)"
    if not (found := library()).path:
        return f"MindSpore's (native ones: {found.why_not})"
    partly = f"; {', '.join(others)}: MindSpore's" if others else ""
    return f"native, {found.isa}, {threads_of_a_rank()} thread(s), products in {config.context.cpu_products}{partly}"


OPTIMIZERS = {"adamw": AdamW}  # by actor_config.optimizer.type


@dataclass
class _Builder:
    """Args: shape: of a model without weights, all zeros, in the place of actor_config.load."""

    config: Config
    mesh: Mesh
    zeros: ModelConfig | None

    @cached_property
    def shape(self) -> ModelConfig:
        """The actor's."""
        return self.zeros or ModelConfig.from_dir(self.config.actor_config.load)

    @cached_property
    def _actors_reader(self) -> WeightReader | None:
        return None if self.zeros else WeightReader(self.config.actor_config.load, self.shape)

    @cached_property
    def strategies(self) -> dict[str, Strategy]:
        return role_strategies(self.config, self.mesh.world_size)

    def precision(self, role: RoleSpec) -> Precision:
        config = self.config
        if config.wants_native_kernels(role.name):
            set_up(config.context.cpu_products)
        fused = config.has_fused_kernels(role.name)
        return Precision.here(*config.dtypes(role.name), fused, config.wants_native_kernels(role.name))

    def is_sequence_split(self, role: RoleSpec) -> bool:
        parallel = role.section_of(self.config).parallel_config
        return isinstance(parallel, StagedParallelConfig) and parallel.use_seq_parallel

    def shape_of(self, role: RoleSpec) -> ModelConfig:
        """Raises UserError for a vocabulary that is not the actor's."""
        folder = role.folder(self.config)
        shape = self.shape if self.zeros else ModelConfig.from_dir(folder)
        if shape.vocab_size != self.shape.vocab_size:
            raise UserError(
                f"{role.section}.load={folder}: vocabulary of {shape.vocab_size}, the actor's has "
                f"{self.shape.vocab_size}"
            )
        return shape

    def model(self, role: RoleSpec, shape: ModelConfig) -> Decoder:
        """This rank's share of a role's model: zeros where a reshard fills it, or there are no weights."""
        config, strategy = self.config, self.strategies[role.name]
        reader = None if role.starts_from_actor else self._actors_reader
        if reader is not None and role.folder(config) != config.actor_config.load:
            reader = WeightReader(role.folder(config), shape)
        weights = None
        if reader is not None:
            weights = fill_buffers(buffers_of_rank(shape, strategy, self.mesh.rank), reader.read)
        return Decoder(
            shape,
            weights,
            role.is_trained,
            config.rl_config.seq_length,
            self.mesh.role(strategy.dims, shape.num_key_value_heads),
            strategy,
            self.is_sequence_split(role),
            self.precision(role),
            config.actor_config.frozen if role.is_trained else (),
        )

    def actor(self, residency: Residency) -> TrainedModel:
        config, model = self.config, self.model(ACTOR, self.shape)
        optimizer, recompute = self._optimizer(model), config.actor_config.recompute_config
        keeps = Keeps.of(recompute.recompute, recompute.select_recompute)
        actor = TrainedModel(model, PolicyLoss(model, Objective.of(config)), optimizer, keeps)
        if self._actors_reader is not None and model.precision.param != "float32":  # masters keep what the model rounds
            weights = fill_buffers(model.trained_buffers, self._actors_reader.read)
            for part in range(len(optimizer.parts)):
                optimizer.load_weights(weights, part)
        residency.add(ACTOR.name, model.parameters_in_order, Contents.CHANGES)
        residency.add("gradients", optimizer.gradients, Contents.ZERO)
        num_parts = len(optimizer.parts) if config.actor_config.optimizer.opt_offload else 0
        residency.phases = phases_of_run(config, num_parts)
        for part in range(num_parts):
            residency.add(optimizer_part(part), optimizer.parameters_of(part), Contents.CHANGES)
        if not num_parts:
            residency.add("optimizer", optimizer.parameters, Contents.CHANGES)
        return actor

    def _optimizer(self, model: Decoder) -> AdamW:
        actor = self.config.actor_config
        o, wanted = actor.optimizer, actor.loss_scale
        scale = LossScale(wanted.loss_scale_value, wanted.scale_factor, wanted.scale_window)
        return OPTIMIZERS[o.type](
            model,
            AdamWOptions(o.adam_beta1, o.adam_beta2, o.eps, o.weight_decay, o.max_grad_norm),
            actor.enable_parallel_optimizer,
            scale if "float16" in self.config.dtypes(ACTOR.name) else None,
            part_bytes=o.opt_offload_bucket_mb << 20 if o.opt_offload else 0,
        )

    def scorer(self, role: RoleSpec, actor: TrainedModel, residency: Residency) -> LogprobScorer:
        """A frozen role that scores sequences; swapped out at once, where swapping is on."""
        shape = self.shape_of(role)
        own = (shape, self.strategies[role.name], self.is_sequence_split(role), self.precision(role))
        actors = (self.shape, self.strategies[ACTOR.name], self.is_sequence_split(ACTOR), actor.model.precision)
        model = self.model(role, shape)
        contents = Contents.CHANGES if role.follows_actor(self.config) else Contents.FROZEN
        residency.add(role.name, model.parameters_in_order, contents)
        return LogprobScorer(model, actor.layers if own == actors else None, self.config.policy_temperature)


def build_trained_roles(
    config: Config, mesh: Mesh, shape: ModelConfig | None = None, has_scorers: bool = True
) -> TrainedRoles:
    """Loads this rank's shards and builds the roles of an update; each is swapped out before the next is built.

    Args: shape: of a model without weights, all zeros, in the place of actor_config.load; has_scorers: whether the
    frozen roles that score are built.
    """
    return _trained_roles(_Builder(config, mesh, shape), has_scorers)


def _trained_roles(builder: _Builder, has_scorers: bool = True) -> TrainedRoles:
    config, residency = builder.config, make_residency(builder.config)
    actor = builder.actor(residency)
    wanted = [role for role in scoring_roles(config) if has_scorers and role.is_used(config)]
    scorers = {role.name: builder.scorer(role, actor, residency) for role in wanted}
    policy = LogprobScorer(actor.model, actor.layers, config.policy_temperature)
    return TrainedRoles(builder.shape, actor, policy, scorers, residency)


def build_roles(config: Config, mesh: Mesh, shape: ModelConfig | None = None) -> Roles:
    """`build_trained_roles`, and the rollout engine with what moves the trained weights into it."""
    builder = _Builder(config, mesh, shape)
    trained = _trained_roles(builder)
    residency, strategies = trained.residency, builder.strategies
    model = builder.model(ROLLOUT, builder.shape)
    residency.add(ROLLOUT.name, model.parameters_in_order, Contents.REBUILT)  # by the first reshard
    rollout = make_engine(config, model, strategies[ROLLOUT.name], model.mesh, mesh.rank)
    if rollout.own_weights:
        residency.add("engine_weights", rollout.own_weights, Contents.REBUILT)
    residency.add("kv_cache", rollout.cache_parameters, Contents.SCRATCH)
    transport, bucket_bytes = make_transport(config, mesh), config.reshard_bucket_bytes

    def resharder_to(role: RoleSpec, destination: Decoder) -> Resharder:
        plan = make_plan(builder.shape, strategies[ACTOR.name], strategies[role.name], mesh.world_size)
        precisions = (trained.actor.model.precision, destination.precision)
        weights = destination.named_weights()
        return Resharder(plan, mesh.rank, mesh.world, weights, transport, bucket_bytes, precisions)

    followers = {}
    for role in following_roles(config):
        if role.name in trained.scorers:
            follower = trained.scorers[role.name].model
            if follower.config != builder.shape:
                raise UserError(
                    f"{role.section}.sync_ref_model=true: {role.section}.load is a model of another shape than the "
                    "actor"
                )
            followers[role.name] = resharder_to(role, follower)
    resharder = resharder_to(ROLLOUT, model)
    bound = lower_bound_bytes(builder.shape, strategies[ACTOR.name], strategies[ROLLOUT.name], mesh.world_size).sum()
    return Roles(
        **vars(trained),
        rollout=rollout,
        rollout_mesh=model.mesh,
        resharder=resharder,
        followers=followers,
        reshard_bound_bytes=resharder.in_bytes(int(bound)),
    )
