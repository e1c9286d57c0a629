"""What every role of a run could be: its degrees, and what goes with them; with its own seconds and bytes.

What a role takes depends on its own choice alone, but for the reshard between two, swapping, and communicators, which
`search` adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from mindrlhf_lite.config.adapters import sharing_roles
from mindrlhf_lite.config.dotted import replaced
from mindrlhf_lite.config.memory_plan import memory_parts
from mindrlhf_lite.config.micro_batches import compiles_soon
from mindrlhf_lite.config.model_file import shape_of_role
from mindrlhf_lite.config.roles import CRITIC, RoleSpec, scoring_roles
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.estimate.devices import Device
from mindrlhf_lite.estimate.step import StepWork
from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy
from mindrlhf_lite.shapes.model_config import ModelConfig

MOST_TENSOR, MOST_CONTEXT = 8, 8  # of a host
_LEAST_LAYERS = 2  # a stage
_LEAST_SLOTS = 8
_KEPT = (  # of a layer's activations: all, products, inputs
    {"recompute": False, "select_recompute": False},
    {"recompute": False, "select_recompute": True},
    {"recompute": True, "select_recompute": False},
)


@dataclass(frozen=True)
class Choice:
    """Of a role, or of all scoring roles. `held`: bytes of its groups; `peak`: of activations, at most; `alone`: of
    the phase that needs most where nothing else is in memory, with the optimizer's state and without.
    """

    settings: dict[str, Any]
    strategies: tuple[Strategy, ...]
    seconds: float
    held: int
    peak: int
    alone: tuple[int, int]


@dataclass(frozen=True)
class Question:
    """A run whose layouts are asked for, on so many devices, of which each has `room` bytes for it."""

    config: Config
    shape: ModelConfig
    num_devices: int
    device: Device
    room: float

    def with_settings(self, settings: dict[str, Any]) -> Config:
        return replaced(self.config, settings)

    def seconds(self, work: dict[str, Any]) -> float:
        return sum(self.device.seconds_of(name, each) for name, each in work.items())


def divisors(number: int) -> list[int]:
    """Example: divisors(12) == [1, 2, 3, 4, 6, 12]"""
    return [each for each in range(1, number + 1) if number % each == 0]


def staged_dims(shape: ModelConfig, num_devices: int, has_stages: bool = True) -> Iterator[ParallelDims]:
    """Degrees that `shape` can be laid out in: tensor ranks within a host, stages of two layers or more."""
    stages = [each for each in divisors(num_devices) if each * _LEAST_LAYERS <= shape.num_hidden_layers]
    contexts = [each for each in divisors(num_devices) if each <= MOST_CONTEXT]
    for tensor in (each for each in divisors(num_devices) if each <= MOST_TENSOR):
        if Strategy(ParallelDims(1, tensor)).problems(shape):
            continue
        for pipeline, context in product(stages if has_stages else [1], contexts if has_stages else [1]):
            if num_devices % (tensor * pipeline * context) == 0:
                yield ParallelDims(num_devices // (tensor * pipeline), tensor, pipeline, context)


def degrees(section: str, dims: ParallelDims) -> dict[str, Any]:
    """Settings of a role's parallel_config."""
    named = {"data": dims.shares, "model": dims.tensor, "context": dims.context}
    found: dict[str, Any] = {f"{section}.parallel_config.{name}_parallel": degree for name, degree in named.items()}
    return found | {f"{section}.parallel_config.pipeline_stage": dims.pipeline}


def rollout_choices(question: Question) -> Iterator[list[Choice]]:
    """Of every layout of the rollout, so many slots as decode all completions at once, or in several series."""
    config = question.config
    for dims in staged_dims(question.shape, question.num_devices, has_stages=False):
        if config.rl_config.chunk_size % dims.copies:
            continue
        completions = config.rl_config.chunk_size // dims.copies * config.rl_config.num_generations
        found = []
        for series in (2**power for power in range(completions.bit_length())):
            slots = -(-completions // series)
            if series > 1 and slots < _LEAST_SLOTS:
                break
            settings = {**degrees("generate_config", dims), "generate_config.max_num_seqs": slots}
            found.append(_of_rollout(question, settings))
        yield _undominated(found)


def _of_rollout(question: Question, settings: dict[str, Any]) -> Choice:
    config = question.with_settings(settings)
    work = StepWork(config, question.shape, question.num_devices)
    groups, activations = _parts(question, config)
    own = {name: size for name, size in groups.items() if name in ("rollout", "kv_cache", "engine_weights")}
    peak = activations.get("generate", 0)
    held, alone = sum(own.values()), own["kv_cache"] + own.get("engine_weights", own["rollout"]) + peak
    seconds = question.device.seconds_of("generate", work.generate())
    return Choice(settings, (work.strategies["rollout"],), seconds, held, peak, (alone, alone))


def scorer_choices(question: Question) -> list[Choice]:
    """Of the frozen roles that score, together: they share the size of their micro-batches."""
    roles = [role for role in scoring_roles(question.config) if role.is_used(question.config)]
    if not roles:
        return [Choice({}, (), 0.0, 0, 0, (0, 0))]
    most = question.config.completions_per_update
    found, may_share = [], bool(question.config.actor_config.lora.rank)  # the actor's weights, where layouts agree
    for rows in (2**power for power in range(0, most.bit_length(), 2)):
        together = {"ref_config.ref_model_batch_size": rows}
        of_roles = [_of_role(question, role, together) for role in roles]
        of_roles = of_roles if may_share else [_undominated(each) for each in of_roles]
        found += [_joined(together, choices) for choices in product(*of_roles)]
    return found if may_share else _undominated(found)


def _of_role(question: Question, role: RoleSpec, together: dict[str, Any]) -> list[Choice]:
    found = []
    for dims in staged_dims(shape_of_role(question.config, role, question.shape), question.num_devices):
        completions = question.config.completions_per_step
        if completions % dims.shares or together["ref_config.ref_model_batch_size"] > completions // dims.shares:
            continue  # a micro-batch of more than a rank has
        settings = {**together, **degrees(role.section, dims)}
        config = question.with_settings(settings)
        work = StepWork(config, question.shape, question.num_devices)
        groups, activations = _parts(question, config)
        held, peak = groups[role.name], activations.get(role.name, 0)
        seconds = question.device.seconds_of(role.name, work.scoring()[role.name])
        found.append(Choice(settings, (work.strategies[role.name],), seconds, held, peak, (held + peak,) * 2))
    return found


def _joined(together: dict[str, Any], choices: tuple[Choice, ...]) -> Choice:
    settings = dict(together)
    for choice in choices:
        settings |= choice.settings
    alone = max(choice.alone[0] for choice in choices)
    return Choice(
        settings,
        tuple(strategy for choice in choices for strategy in choice.strategies),
        sum(choice.seconds for choice in choices),
        sum(choice.held for choice in choices),
        max(choice.peak for choice in choices),
        (alone, alone),
    )


def actor_choices(question: Question) -> Iterator[list[Choice]]:
    """Of every layout of the actor, what its updates could be, the fastest first."""
    config = question.config
    on_device = config.context.device_target != "CPU"
    for dims in staged_dims(question.shape, question.num_devices):
        if config.completions_per_update % dims.shares or dims.shares > config.completions_per_update:
            continue
        share = config.completions_per_update // dims.shares
        layout = {
            **degrees("actor_config", dims),
            **(degrees(CRITIC.section, dims) if CRITIC in config.roles else {}),
            "actor_config.parallel_config.use_seq_parallel": dims.tensor > 1 and on_device,
            "actor_config.parallel_config.stage_layers": [],
            "actor_config.enable_parallel_optimizer": dims.copies > 1,
            "rl_config.micro_batch_tokens": 0,
        }
        numbers = [2**power for power in range(share.bit_length()) if 2**power >= min(share, dims.pipeline)]
        found = [
            _of_actor(question, {**layout, "actor_config.parallel_config.micro_batch_num": number, **kept})
            for number in numbers
            for kept in (
                {f"actor_config.recompute_config.{key}": value for key, value in each.items()} for each in _KEPT
            )
        ]
        yield _undominated([choice for choice in found if choice is not None])


def _of_actor(question: Question, settings: dict[str, Any]) -> Choice | None:
    """None: its graphs would compile for too long."""
    config = question.with_settings(settings)
    if not compiles_soon(config, question.shape, question.num_devices):
        return None
    work = StepWork(config, question.shape, question.num_devices)
    groups, activations = _parts(question, config)
    critic = groups.get("critic", 0) + groups.get("critic_gradients", 0) + groups.get("critic_optimizer", 0)
    without = groups["actor"] + groups["gradients"] + groups.get("base", 0)
    held = without + groups["optimizer"] + critic
    peak = max(activations[name] for name in ("update", "policy", "values", "update_critic") if name in activations)
    alone = without + activations["update"]
    seconds = question.seconds(work.training())
    strategies = (work.strategies["actor"],)
    return Choice(settings, strategies, seconds, held, peak, (alone + groups["optimizer"], alone))


def _parts(question: Question, config: Config) -> tuple[dict[str, int], dict[str, int]]:
    """Without what roles may share, for lower bounds."""
    groups, activations = memory_parts(config, question.shape, question.num_devices, question.device.memory_gib)
    shared = set(sharing_roles(config, role_strategies(config, question.num_devices)))
    if config.actor_config.lora.rank:
        shared |= {*(role.name for role in scoring_roles(config)), "rollout_base"}
    return {name: 0 if name in shared else size for name, size in groups.items()}, activations


def _undominated(choices: list[Choice]) -> list[Choice]:
    """The fastest first, without those that another beats or equals in time and in all bytes."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda each: (each.seconds, each.held, each.peak)):
        if not any(all(ours <= theirs for ours, theirs in zip(_bytes(each), _bytes(choice))) for each in kept):
            kept.append(choice)
    return kept


def _bytes(choice: Choice) -> tuple[int, ...]:
    return (choice.held, choice.peak, *choice.alone)
