"""Builds a role's model on this rank, from the table of roles (config/roles.py) and its parallel strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from mindspore import Parameter

from mindrlhf_lite.config.adapters import adapters_to_start_from, sharing_roles, with_adapters
from mindrlhf_lite.config.model_file import shape_of_role, vocabulary_problem
from mindrlhf_lite.config.roles import (
    ACTOR,
    BASE,
    CRITIC,
    RoleSpec,
    phases_of_run,
)
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.sections.parallel import StagedParallelConfig
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.loss import Loss
from mindrlhf_lite.learner.loss_scale import LossScale
from mindrlhf_lite.learner.policy_loss import Objective, PolicyLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.learner.value_loss import ValueLoss
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.fingerprint import model_fingerprint
from mindrlhf_lite.models.hf_weights import Read, WeightReader
from mindrlhf_lite.models.peft_folder import InitialAdapters, PeftFolder
from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.models.score_head import scoring_reader
from mindrlhf_lite.native.library import set_up
from mindrlhf_lite.parallel.layout import BuffersToFill, Strategy, buffers_of_rank
from mindrlhf_lite.parallel.mesh import Mesh
from mindrlhf_lite.roles.critic import Critic, critic_reader
from mindrlhf_lite.scoring.pairs import LastTokenScorer
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.scoring.stages import Keeps
from mindrlhf_lite.scoring.values import ValueScorer
from mindrlhf_lite.shapes.adapters import is_adapter
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import SCORE
from mindrlhf_lite.swap.phases import optimizer_part
from mindrlhf_lite.swap.residency import Contents, Residency


def frozen_of(model: Decoder) -> dict[str, Parameter]:
    """Its parameters that are not trained, by name."""
    trained = {parameter.name for parameter in model.trained}
    return {name: parameter for name, parameter in model.named_weights().items() if name not in trained}


LossOf = Callable[[Decoder], Loss]
OPTIMIZERS = {"adamw": AdamW}  # by actor_config.optimizer.type


@dataclass
class Builder:
    """Args: zeros: shape of a model without weights, all zeros, in the place of actor_config.load; loss_of: of the
    trained model; None: the policy loss.
    """

    config: Config
    mesh: Mesh
    zeros: ModelConfig | None
    loss_of: LossOf | None = None

    @cached_property
    def shape(self) -> ModelConfig:
        """The actor's, without adapters."""
        shape = self.zeros or ModelConfig.from_dir(self.config.actor_config.load)
        return shape.scoring if self.config.trains_scores else shape

    @cached_property
    def adapted(self) -> ModelConfig:
        """The actor's."""
        return with_adapters(self.config, self.shape)

    @cached_property
    def base_fingerprint(self) -> str:
        """Of the weights that adapters begin beside: later the folder may hold others."""
        is_wanted = self.adapted.adapters is not None and not self.zeros and self.mesh.is_main
        return model_fingerprint(self.config.actor_config.load) if is_wanted else ""

    @cached_property
    def sharing(self) -> frozenset[str]:
        return sharing_roles(self.config, self.strategies)

    @cached_property
    def _actors_reader(self) -> Read | None:
        folder = self.config.actor_config.load
        if self.zeros:
            return None
        if self.config.trains_scores:
            return scoring_reader(folder, self.config.rl_config.seed)
        return WeightReader(folder, self.shape).read

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
        if self.zeros or role.has_own_model:
            shape = shape_of_role(self.config, role, self.shape)
        else:
            shape = ModelConfig.from_dir(folder)
        if problem := vocabulary_problem(role, shape, self.shape, self.config):
            raise UserError(f"{role.section}.load={folder}: {problem}")
        return shape

    def _read(self, role: RoleSpec, shape: ModelConfig) -> Read | None:
        """Of a role's weights at the start; None: zeros, where a reshard fills them or there are none."""
        config, reader = self.config, self._actors_reader
        if reader is None or (role.starts_from_actor and self.adapted.adapters is None):
            return None
        if role is CRITIC:
            return critic_reader(role.folder(config))
        if role.folder(config) != config.actor_config.load:
            reader = WeightReader(role.folder(config), shape.base).read
        if shape.adapters is None:
            return reader
        of_base, of_adapters = reader, self._adapters_at_start.read
        has_score = bool(config.actor_config.lora.load)  # else it is new, and the base's reader makes it
        return lambda name, box: (of_adapters if is_adapter(name) or (has_score and name == SCORE) else of_base)(
            name, box
        )

    @cached_property
    def _adapters_at_start(self) -> InitialAdapters | PeftFolder:
        """Raises UserError for adapters of another model."""
        config, lora = self.config, self.config.actor_config.lora
        if not lora.load:
            return InitialAdapters(self.adapted, config.rl_config.seed, lora.init)
        folder = adapters_to_start_from(config, self.shape)
        folder.check_base(config.actor_config.load)
        return folder

    def model(self, role: RoleSpec, shape: ModelConfig, shared: Mapping[str, Parameter] | None = None) -> Decoder:
        """This rank's share of a role's model: zeros where a reshard fills it, or there are no weights.

        Args: shared: parameters that another model has already, by name.
        """
        config, strategy = self.config, self.strategies[role.name]
        read, weights = self._read(role, shape), None
        if read is not None:
            weights = BuffersToFill(buffers_of_rank(shape, strategy, self.mesh.rank), read)
        return Decoder(
            shape,
            weights,
            role.is_trained,
            config.rl_config.seq_length,
            self.mesh.role(strategy.dims, shape.num_key_value_heads),
            strategy,
            self.is_sequence_split(role),
            self.precision(role),
            config.actor_config.frozen if role is ACTOR else (),
            shared,
        )

    def actor(self, residency: Residency) -> TrainedModel:
        config, model = self.config, self.model(ACTOR, self.adapted)
        optimizer, recompute = self.optimizer(model, ACTOR), config.actor_config.recompute_config
        keeps = Keeps.of(recompute.recompute, recompute.select_recompute)
        loss = self.loss_of(model) if self.loss_of else PolicyLoss(model, Objective.of(config))
        actor = TrainedModel(model, loss, optimizer, keeps)
        self._fill_masters(ACTOR, self.adapted, model, optimizer)
        has_adapters = self.adapted.adapters is not None
        residency.add(ACTOR.name, model.trained if has_adapters else model.parameters_in_order, Contents.CHANGES)
        if has_adapters:
            residency.add(BASE, list(frozen_of(model).values()), Contents.FROZEN)
        residency.add("gradients", optimizer.gradients, Contents.ZERO)
        num_parts = len(optimizer.parts) if config.actor_config.optimizer.opt_offload else 0
        residency.phases = phases_of_run(config, num_parts, self.sharing)
        for part in range(num_parts):
            residency.add(optimizer_part(part), optimizer.parameters_of(part), Contents.CHANGES)
        if not num_parts:
            residency.add("optimizer", optimizer.parameters, Contents.CHANGES)
        return actor

    def _fill_masters(self, role: RoleSpec, shape: ModelConfig, model: Decoder, optimizer: AdamW) -> None:
        """Where there are any: they keep what the model rounds."""
        read = self._read(role, shape)
        if read is not None and model.trained_precision.param != "float32":
            weights = BuffersToFill(model.trained_buffers, read)
            for part in range(len(optimizer.parts)):
                optimizer.load_weights(weights, part)

    def critic(self, actor: TrainedModel, residency: Residency) -> Critic | None:
        """None where the run has none."""
        config, section = self.config, self.config.critic_config
        if CRITIC not in config.roles:
            return None
        shape, recompute = self.shape_of(CRITIC), section.recompute_config
        model = self.model(CRITIC, shape)
        optimizer, keeps = self.optimizer(model, CRITIC), Keeps.of(recompute.recompute, recompute.select_recompute)
        decoder = replace(shape, has_score=False, tie_word_embeddings=self.adapted.tie_word_embeddings)
        alike = actor if self._computes_as_actor(CRITIC, decoder, actor) else None
        trained = TrainedModel(model, ValueLoss(model, config.rl_config.cliprange_value), optimizer, keeps, alike)
        self._fill_masters(CRITIC, shape, model, optimizer)
        residency.add(CRITIC.name, model.parameters_in_order, Contents.CHANGES)
        residency.add("critic_gradients", optimizer.gradients, Contents.ZERO)
        residency.add("critic_optimizer", optimizer.parameters, Contents.CHANGES)
        return Critic(trained, ValueScorer(model, trained.layers))

    def optimizer(self, model: Decoder, role: RoleSpec) -> AdamW:
        """Of a trained role."""
        actor, section = self.config.actor_config, role.section_of(self.config)
        o, wanted = section.optimizer, actor.loss_scale
        scale = LossScale(wanted.loss_scale_value, wanted.scale_factor, wanted.scale_window)
        return OPTIMIZERS[o.type](
            model,
            AdamWOptions(o.adam_beta1, o.adam_beta2, o.eps, o.weight_decay, o.max_grad_norm),
            section.enable_parallel_optimizer,
            scale if "float16" in self.config.dtypes(role.name) else None,
            part_bytes=o.opt_offload_bucket_mb << 20 if o.opt_offload else 0,
        )

    def scorer(self, role: RoleSpec, actor: TrainedModel, residency: Residency) -> LogprobScorer:
        """A frozen role that scores sequences; swapped out at once, where swapping is on."""
        shape = self.shape_of(role)
        if role.name in self.sharing:
            model = self.model(role, shape, frozen_of(actor.model))
            return LogprobScorer(model, None, self.config.policy_temperature)
        model = self.model(role, shape)
        contents = Contents.CHANGES if role.follows_actor(self.config) else Contents.FROZEN
        residency.add(role.name, model.parameters_in_order, contents)
        alike = actor.layers if self._computes_as_actor(role, shape, actor) else None
        return LogprobScorer(model, alike, self.config.policy_temperature)

    def reward_model(self, role: RoleSpec, residency: Residency) -> LastTokenScorer:
        """A frozen role that gives scores; swapped out at once, where swapping is on."""
        model = self.model(role, self.shape_of(role))
        residency.add(role.name, model.parameters_in_order, Contents.FROZEN)
        return LastTokenScorer(model)

    def _computes_as_actor(self, role: RoleSpec, shape: ModelConfig, actor: TrainedModel) -> bool:
        """Whether the graphs of the actor's layers serve a role's."""
        own = (shape, self.strategies[role.name], self.is_sequence_split(role), self.precision(role))
        return own == (
            self.adapted,
            self.strategies[ACTOR.name],
            self.is_sequence_split(ACTOR),
            actor.model.precision,
        )
