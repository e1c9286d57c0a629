"""What actor_config.lora means for the roles of a run: which have adapters, and which use the actor's frozen weights as
their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mindrlhf_lite.config.model_file import shape_of_actor
from mindrlhf_lite.config.roles import ACTOR, RoleSpec, following_roles
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.sections.lora import LoraConfig
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.peft_folder import PeftFolder
from mindrlhf_lite.parallel.layout import Strategy
from mindrlhf_lite.shapes.adapters import ALL_LINEAR, Adapters
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs


def linears_of(shape: ModelConfig) -> tuple[str, ...]:
    """Of its layers, by the last part of their modules' names, sorted."""
    matrices = [spec for spec in parameter_specs(shape.base) if spec.layer is not None and len(spec.shape) == 2]
    return tuple(sorted({spec.name.split(".")[-2] for spec in matrices}))


def with_adapters(config: Config, shape: ModelConfig) -> ModelConfig:
    """The trained model's shape, of the base's."""
    lora = config.actor_config.lora
    if not lora.rank:
        return shape
    targets = linears_of(shape) if ALL_LINEAR in lora.target_modules else tuple(sorted(set(lora.target_modules)))
    return replace(shape, adapters=Adapters(lora.rank, lora.alpha, targets, lora.rslora))


def with_all_adapters(shape: ModelConfig, rank: int) -> ModelConfig:
    """Of all linears."""
    return replace(shape, adapters=Adapters(rank, float(rank), linears_of(shape)))


def adapters_to_start_from(config: Config, shape: ModelConfig) -> PeftFolder:
    """Of actor_config.lora.load. Args: shape: of the base.

    Raises:
        UserError: they are not there, or not those that the settings name.
    """
    folder, wanted = PeftFolder(config.actor_config.lora.load, shape), with_adapters(config, shape)
    if folder.shape != wanted:
        raise UserError(f"{folder.shape.adapters}, but the settings say {wanted.adapters}")
    return folder


def shares_base(config: Config, role: RoleSpec, strategies: Mapping[str, Strategy]) -> bool:
    """Whether a role's weights, besides adapters, are those that the actor holds on every rank, stored alike."""
    if not config.actor_config.lora.rank or role.is_trained:
        return False
    ours, theirs = strategies[ACTOR.name], strategies[role.name]
    lies_alike = (
        ours.dims.tensor == theirs.dims.tensor
        and ours.dims.pipeline == theirs.dims.pipeline
        and ours.dims.size == theirs.dims.size
        and ours.splits_embedding == theirs.splits_embedding
        and ours.stage_layers == theirs.stage_layers
    )
    is_stored_alike = config.dtypes(ACTOR.name)[1] == config.dtypes(role.name)[1]
    return lies_alike and is_stored_alike and role.folder(config) == config.actor_config.load


def lora_problems(config: Config, is_plan: bool) -> list[str]:
    """Why the adapters that are asked for cannot be. Args: is_plan: no weights are needed."""
    lora, key = config.actor_config.lora, "actor_config.lora"
    if not lora.rank:
        given = [name for name, value in vars(lora).items() if value != getattr(LoraConfig(), name)]
        return [f"{key}.{name}={getattr(lora, name)}: there are no adapters; set {key}.rank" for name in given]
    problems = []
    if lora.dropout:
        problems.append(f"{key}.dropout={lora.dropout}: must be 0, or logprobs of training and rollout would differ")
    if lora.modules_to_save:
        problems.append(
            f"{key}.modules_to_save={lora.modules_to_save}: no module is trained whole beside adapters; leave it "
            f"out, or train all weights ({key}.rank=0)"
        )
    if config.actor_config.frozen:
        problems.append("actor_config.frozen: beside adapters all weights are frozen; leave it out")
    problems += [
        f"{role.section}.sync_ref_model=true: beside adapters the reference is their base, which does not move"
        for role in following_roles(config)
    ]
    if config.generate_config.use_vllm and lora.rollout == "separate":
        problems.append(f"{key}.rollout=separate: vLLM takes merged weights; use merge, or auto")
    try:
        shape = shape_of_actor(config)
    except ValueError:
        return problems  # reported with the files
    names = linears_of(shape)
    problems += [
        f"{key}.target_modules={name!r}: it has no adapters here; {', '.join(names)} may, or {ALL_LINEAR}"
        for name in lora.target_modules
        if name not in (*names, ALL_LINEAR)
    ]
    if lora.load and not is_plan:
        try:
            adapters_to_start_from(config, shape)
        except UserError as error:
            problems.append(f"{key}.load={lora.load}: {error}")
    if not lora.target_modules:
        problems.append(f"{key}.target_modules=[]: name at least one linear, or {ALL_LINEAR}")
    return problems


def sharing_roles(config: Config, strategies: Mapping[str, Strategy]) -> frozenset[str]:
    return frozenset(role.name for role in config.roles if shares_base(config, role, strategies))
