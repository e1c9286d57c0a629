"""The roles of a run: the one table of its models. Strategies, memory plan, residency, building, checkpoints, console
and dry run read it.

A new role is a row here, and a section of the configuration with a `parallel_config`, `model_config`, `compute_dtype`,
`param_dtype` and, where its weights come from a folder, `load`. A role with a phase of its own name scores the step's
sequences in it; roles/build.py makes those from the row alone. Of a role that is trained, who builds it gives the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from mindrlhf_lite.algorithms.names import GAE
from mindrlhf_lite.swap.phases import Access, Phase, optimizer_part, phase_of, phase_of_part
from mindrlhf_lite.types import VALUES

if TYPE_CHECKING:
    from mindrlhf_lite.config.schema import Config

UPDATE_CRITIC = "update_critic"  # phase


def _always(config: Config) -> bool:
    return True


def _never(config: Config) -> bool:
    return False


@dataclass(frozen=True)
class RoleSpec:
    """A model of a run.

    Example: RoleSpec("teacher", "teacher_config", {"teacher": Access.READS}), which scores the step's sequences
    """

    name: str  # of its group of weights, of its files
    section: str  # of the configuration
    phases: Mapping[str, Access]  # in which its weights are used, and how
    is_trained: bool = False  # it has gradients and an optimizer; else frozen
    starts_from_actor: bool = False  # empty until a reshard has filled it; else its weights are those of a folder
    is_used: Callable[[Config], bool] = _always
    follows_actor: Callable[[Config], bool] = _never  # it takes the actor's weights now and then, and is saved
    has_own_model: bool = False  # that of its own folder, of a size of its own; a run that does not use it has no trace
    gives_scores: bool = False  # by a score head; else logprobs

    @property
    def scores(self) -> bool:
        """Whether it scores the step's sequences, in the phase of its name."""
        return not self.is_trained and self.name in self.phases

    @property
    def sync_phase(self) -> str:
        """In which it takes the actor's weights."""
        return f"sync_{self.name}"

    def section_of(self, config: Config) -> Any:
        return attrgetter(self.section)(config)

    def folder(self, config: Config) -> str:
        """The folder that its weights, or those that it is filled with, come from."""
        return ("" if self.starts_from_actor else self.section_of(config).load) or config.actor_config.load


ACTOR = RoleSpec(
    "actor",
    "actor_config",
    {"policy": Access.READS, "update": Access.CHANGES, "reshard": Access.READS},
    is_trained=True,
)
REFERENCE = RoleSpec(
    "reference",
    "ref_config",
    {"reference": Access.READS},
    is_used=lambda config: config.rl_config.beta > 0,
    follows_actor=lambda config: config.ref_config.sync_ref_model,
)
TEACHER = RoleSpec(
    "teacher",
    "teacher_config",
    {"teacher": Access.READS},
    is_used=lambda config: config.rl_config.distillation.coef > 0,
    has_own_model=True,
)
CRITIC = RoleSpec(
    "critic",
    "critic_config",
    {VALUES: Access.READS, UPDATE_CRITIC: Access.CHANGES},
    is_trained=True,
    is_used=lambda config: config.rl_config.advantage == GAE,
    has_own_model=True,
    gives_scores=True,
)
ROLLOUT = RoleSpec(
    "rollout", "generate_config", {"generate": Access.READS, "reshard": Access.FILLS}, starts_from_actor=True
)
REWARD_MODEL = RoleSpec(
    "reward_model",
    "reward_config.reward_model",
    {"reward_model": Access.READS},
    is_used=lambda config: bool(config.reward_config.reward_model.load),
    has_own_model=True,
    gives_scores=True,
)
ROLES = (ACTOR, REWARD_MODEL, REFERENCE, TEACHER, CRITIC, ROLLOUT)
# groups of frozen weights beside adapters: those that the actor holds, and the rollout's where it holds others
BASE, ROLLOUT_BASE = "base", "rollout_base"


def scoring_roles(config: Config) -> list[RoleSpec]:
    """Those that score the step's sequences, used or not."""
    return [role for role in config.roles if role.scores]


def reads_own_tokens(role: RoleSpec, config: Config) -> bool:
    """Whether it reads texts in its own tokens, not the actor's: a reward model with a template."""
    return role is REWARD_MODEL and bool(config.reward_config.reward_model.template)


def following_roles(config: Config) -> list[RoleSpec]:
    return [role for role in config.roles if role.follows_actor(config)]


def unused_parts(config: Config) -> set[str]:
    """Names of the roles that this run has not, and of the groups and phases that only they have."""
    unused = {role.name for role in config.roles if not role.is_used(config)}
    return unused | (
        {"generate", "reshard", "kv_cache", "engine_weights", ROLLOUT_BASE} if ROLLOUT.name in unused else set()
    )


def phases_of_run(config: Config, optimizer_parts: int = 0, sharing: Collection[str] = frozenset()) -> dict[str, Phase]:
    """Which groups each phase of a step has in memory, in the order of a step.

    Args: optimizer_parts: 0: the optimizer's state is in memory for the whole update; else in so many parts, after the
    backward passes; sharing: roles that use the frozen weights beside the actor's adapters as their own.
    """
    uses: dict[str, dict[str, Access]] = {role.name: dict(role.phases) for role in config.roles}
    uses |= {"gradients": {"update": Access.CHANGES}, "kv_cache": {"generate": Access.FILLS}}
    moving = following_roles(config)
    for role in moving:
        uses[role.name] |= {role.sync_phase: Access.CHANGES, "save": Access.READS, "restore": Access.CHANGES}
        uses["actor"][role.sync_phase] = Access.READS
    uses["actor"] |= {"save": Access.READS, "restore": Access.CHANGES}
    if config.rl_config.reshard_mem_opt_level:
        uses["actor"]["reshard"] = Access.READS_STORED
    if config.engine_copies_weights:  # the rollout model is there to be resharded into only
        uses["engine_weights"] = uses["rollout"]
        uses["rollout"] = {"reshard": Access.FILLS}
    if config.actor_config.lora.rank:
        _use_base(config, uses, sharing)
    if not optimizer_parts:
        uses["optimizer"] = {"update": Access.CHANGES, "save": Access.READS, "restore": Access.CHANGES}
    of_critic = _use_critic(uses) if CRITIC in config.roles else ()
    parts = _use_parts(uses, optimizer_parts)
    scoring = [role.name for role in scoring_roles(config)]
    sync = [role.sync_phase for role in moving]
    order = ("generate", *scoring, "policy", "update", *parts, *of_critic, "reshard", *sync, "save", "restore")
    return {name: phase_of(name, uses) for name in order}


def _use_base(config: Config, uses: dict[str, dict[str, Access]], sharing: Collection[str]) -> None:
    """Adds the frozen weights beside adapters, of the actor and, where they lie otherwise, of the rollout."""
    phases = ("generate", "reshard") if config.merges_adapters else ("generate",)
    uses[BASE] = dict.fromkeys(("policy", "update"), Access.READS)
    uses[BASE] |= {role.name: Access.READS for role in scoring_roles(config) if role.name in sharing}
    rollouts = uses.setdefault(BASE if ROLLOUT.name in sharing else ROLLOUT_BASE, {})
    rollouts |= dict.fromkeys(phases, Access.READS)


def _use_critic(uses: dict[str, dict[str, Access]]) -> tuple[str, ...]:
    """Adds what is trained besides its weights, and saved. Returns the names of its phases."""
    kept = {"save": Access.READS, "restore": Access.CHANGES}
    uses[CRITIC.name] |= kept
    uses["critic_gradients"] = {UPDATE_CRITIC: Access.CHANGES}
    uses["critic_optimizer"] = {UPDATE_CRITIC: Access.CHANGES, **kept}
    return VALUES, UPDATE_CRITIC


def _use_parts(uses: dict[str, dict[str, Access]], optimizer_parts: int) -> list[str]:
    """Adds what uses the optimizer's state in parts. Returns the names of its phases."""
    if optimizer_parts:
        uses["actor"]["update"] = Access.READS
    names = []
    for index in range(optimizer_parts):
        step, save, restore = (phase_of_part(name, index) for name in ("step", "save", "restore"))
        uses["actor"] |= {step: Access.CHANGES, save: Access.READS, restore: Access.CHANGES}
        uses["gradients"][step] = Access.CHANGES
        uses[optimizer_part(index)] = {step: Access.CHANGES, save: Access.READS, restore: Access.CHANGES}
        names += [step, save, restore]
    return names
