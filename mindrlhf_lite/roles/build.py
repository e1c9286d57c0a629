"""Builds a run's models from the table of roles (config/roles.py), each under its own parallel strategy, and what moves
weights between them.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindspore import Parameter

from mindrlhf_lite.config.roles import (
    ACTOR,
    ROLLOUT,
    ROLLOUT_BASE,
    RoleSpec,
    following_roles,
    scoring_roles,
)
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.precision import FLOAT32
from mindrlhf_lite.native.library import library, threads_of_a_rank
from mindrlhf_lite.parallel.mesh import Mesh
from mindrlhf_lite.reshard.executor import Resharder
from mindrlhf_lite.reshard.plan import lower_bound_bytes, make_plan
from mindrlhf_lite.roles.builder import Builder, LossOf, frozen_of
from mindrlhf_lite.roles.engines import make_engine
from mindrlhf_lite.roles.memory import make_residency, make_transport
from mindrlhf_lite.roles.merging import MergedWeights, landing_of
from mindrlhf_lite.roles.models import Roles, TrainedRoles
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.shapes.adapters import UP, is_adapter
from mindrlhf_lite.shapes.model_config import ModelConfig
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


def build_trained_roles(
    config: Config,
    mesh: Mesh,
    shape: ModelConfig | None = None,
    has_scorers: bool = True,
    loss_of: LossOf | None = None,
) -> TrainedRoles:
    """Loads this rank's shards and builds the roles of an update; each is swapped out before the next is built.

    Args: shape: of a model without weights, all zeros, in the place of actor_config.load; has_scorers: whether the
    frozen roles that score, and a critic, are built; loss_of: as of `Builder`.
    """
    return _trained_roles(Builder(config, mesh, shape, loss_of), has_scorers)


def _trained_roles(builder: Builder, has_scorers: bool = True) -> TrainedRoles:
    config, residency = builder.config, make_residency(builder.config)
    actor = builder.actor(residency)
    wanted = [role for role in scoring_roles(config) if has_scorers and role.is_used(config)]
    reward_model = next((builder.reward_model(role, residency) for role in wanted if role.gives_scores), None)
    scorers = {role.name: builder.scorer(role, actor, residency) for role in wanted if not role.gives_scores}
    policy = LogprobScorer(actor.model, actor.layers, config.policy_temperature)
    critic = builder.critic(actor, residency) if has_scorers else None
    more = (reward_model, critic, residency, builder.base_fingerprint)
    return TrainedRoles(builder.adapted, actor, policy, scorers, *more)


@dataclass
class _RolloutModel:
    model: Decoder
    landing: dict[str, Parameter]  # adapters that are merged into its weights, where they are
    merged: MergedWeights | None


def _rollout_model(builder: Builder, actor: Decoder, residency: Residency) -> _RolloutModel:
    """The rollout's model, in the residency's groups; what it shares with the actor is in a group already."""
    config, adapted = builder.config, builder.adapted
    if adapted.adapters is None:
        model = builder.model(ROLLOUT, adapted)
        residency.add(ROLLOUT.name, model.parameters_in_order, Contents.REBUILT)  # by the first reshard
        return _RolloutModel(model, {}, None)
    shared = frozen_of(actor) if ROLLOUT.name in builder.sharing else {}
    if not config.merges_adapters:
        model = builder.model(ROLLOUT, adapted, shared)
        own = {name: each for name, each in model.named_weights().items() if name not in shared}
        residency.add(ROLLOUT.name, [each for name, each in own.items() if is_adapter(name)], Contents.REBUILT)
        base = [each for name, each in own.items() if not is_adapter(name)]
        if base:
            residency.add(ROLLOUT_BASE, base, Contents.FROZEN)
        return _RolloutModel(model, {}, None)
    strategy, rank = builder.strategies[ROLLOUT.name], builder.mesh.rank
    landing = landing_of(adapted, strategy, rank)
    is_target = {name.replace(f".{UP}.", ".") for name in landing if f".{UP}." in name}
    model = builder.model(ROLLOUT, builder.shape, {n: each for n, each in shared.items() if n not in is_target})
    weights = model.named_weights()
    targets = {name: weights[name] for name in weights if name in is_target}
    residency.add(ROLLOUT.name, [*targets.values(), *landing.values()], Contents.REBUILT)
    base_of = {name: shared[name] if shared else _copy_of(weights[name]) for name in targets}
    if not shared:
        rest = [weights[name] for name in weights if name not in is_target]
        residency.add(ROLLOUT_BASE, [*rest, *base_of.values()], Contents.FROZEN)
    return _RolloutModel(model, landing, MergedWeights(adapted, targets, base_of, landing, model.precision))


def _copy_of(weight: Parameter) -> Parameter:
    return Parameter(weight.copy(), name=f"base.{weight.name}", requires_grad=False)


def build_roles(config: Config, mesh: Mesh, shape: ModelConfig | None = None, loss_of: LossOf | None = None) -> Roles:
    """`build_trained_roles`, and the rollout engine with what moves the trained weights into it."""
    builder = Builder(config, mesh, shape, loss_of)
    trained = _trained_roles(builder)
    residency, strategies = trained.residency, builder.strategies
    rollout_model = _rollout_model(builder, trained.actor.model, residency)
    model, landing = rollout_model.model, rollout_model.landing
    rollout = make_engine(config, model, strategies[ROLLOUT.name], model.mesh, mesh.rank)
    if rollout.own_weights:
        residency.add("engine_weights", rollout.own_weights, Contents.REBUILT)
    residency.add("kv_cache", rollout.cache_parameters, Contents.SCRATCH)
    transport, bucket_bytes = make_transport(config, mesh), config.reshard_bucket_bytes
    moved = builder.adapted.moved

    def resharder_to(role: RoleSpec, destination: Decoder) -> Resharder:
        plan = make_plan(moved, strategies[ACTOR.name], strategies[role.name], mesh.world_size)
        precisions = (trained.actor.model.trained_precision, FLOAT32 if moved.adapters else destination.precision)
        weights = landing if role is ROLLOUT and landing else destination.named_weights()
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
    bound = lower_bound_bytes(moved, strategies[ACTOR.name], strategies[ROLLOUT.name], mesh.world_size).sum()
    return Roles(
        **vars(trained),
        rollout=rollout,
        rollout_mesh=model.mesh,
        resharder=resharder,
        followers=followers,
        reshard_bound_bytes=resharder.in_bytes(int(bound)),
        merged=rollout_model.merged,
    )
