"""How much memory a run needs on its fullest rank, by group of weights and by phase; pure numbers.

Weights, gradients, moments and the KV cache are counted from the layouts, byte for byte as the program allocates them:
gradients, moments and masters are float32, the others what the settings say. Activations are an estimate: what layers
keep for the backward pass, a chunk's logits, the head's gradient. On CPU compiled graphs lie in the same memory: as if
every shape that can occur had occurred, each at what one was found to take (docs/design.md); not the vLLM engine's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from math import lcm, prod

from mindrlhf_lite.config.activations import activation_bytes
from mindrlhf_lite.config.adapters import sharing_roles, with_adapters
from mindrlhf_lite.config.communicators import communicator_bytes
from mindrlhf_lite.config.critic_plan import critic_activations, critic_groups
from mindrlhf_lite.config.model_file import shape_of_role
from mindrlhf_lite.config.roles import (
    BASE,
    CRITIC,
    ROLLOUT_BASE,
    RoleSpec,
    following_roles,
    phases_of_run,
    scoring_roles,
    unused_parts,
)
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.parallel.dims import Coordinates
from mindrlhf_lite.parallel.layout import Strategy, buffers_at
from mindrlhf_lite.shapes.buckets import default_buckets
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import FLOAT32_BYTES, parameter_specs
from mindrlhf_lite.shapes.streams import BLOCK, StreamShapes
from mindrlhf_lite.swap.phases import optimizer_part, phase_of_part

ASCEND_MEMORY_GIB = 64.0  # of a 910B, where nobody says otherwise
HEAD_MULTIPLE = 16  # of head_dim, for Ascend's attention kernels
_GRAPH_BYTES = 8 << 20
_TRAINING_GRAPHS, _SCORING_GRAPHS, _PREFILL_GRAPHS = 5, 3, 4  # a shape


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on the fullest rank. `phases` hold the groups that a phase has in memory with swapping on, its activations,
    and graphs, which stay. The peaks have what HCCL takes beside MindSpore's memory, too.
    """

    groups: dict[str, int]
    phases: dict[str, int]
    without_swap: int
    with_swap: int
    communicators: int = 0
    stored: int = 0  # of the host's memory, with swapping on a device

    def needed(self, swaps: bool) -> int:
        """At the peak."""
        return self.with_swap if swaps else self.without_swap


def item_bytes(dtype: str, device_target: str) -> int:
    """Bytes of a number. On CPU bfloat16 is emulated in float32."""
    return 2 if dtype == "float16" or (dtype == "bfloat16" and device_target != "CPU") else FLOAT32_BYTES


@cache
def _numbers(config: ModelConfig, strategy: Strategy, frozen: tuple[str, ...] = ()) -> tuple[int, int]:
    """(numbers of the fullest stage, of the largest buffer). Args: frozen: names of parameters that do not count."""
    sizes, largest, left_out = [], 0, {spec.name for spec in parameter_specs(config, frozen) if not spec.is_trained}
    for stage in _stages_of_a_kind(strategy, config.num_hidden_layers):
        counted = buffers_at(config, strategy, Coordinates(0, 0, stage))
        sizes.append(sum(prod(each.shape) for each in counted if each.name not in left_out))
        largest = max(largest, *(prod(each.shape) for each in counted))
    return max(sizes), largest


def _stages_of_a_kind(strategy: Strategy, num_layers: int) -> set[int]:
    """The first, the last, and of those between, which have layers only, one with most."""
    last, layers = strategy.dims.pipeline - 1, strategy.layers_of_stage(num_layers)
    between = range(1, last)
    return {0, last, max(between, key=lambda stage: len(layers[stage]), default=0)}


def num_graphs(config: Config, trained: StreamShapes, scored: StreamShapes) -> int:
    """Graphs that a rank compiles at most, besides those of the vLLM engine. Args: trained, scored: shapes of
    micro-batches.
    """
    rl = config.rl_config
    scorers = len(_scoring(config)) + config.scores_policy
    has_prefill = not config.generate_config.use_vllm and "generate" not in unused_parts(config)
    prefill = len(rl.length_buckets or default_buckets(rl.seq_length)) if has_prefill else 0
    return (
        _TRAINING_GRAPHS * trained.num_graphs
        + _SCORING_GRAPHS * scorers * scored.num_graphs
        + _PREFILL_GRAPHS * prefill
        + 1
    )


def _scoring(config: Config) -> list[RoleSpec]:
    """The frozen roles of this run that score sequences."""
    return [role for role in scoring_roles(config) if role.is_used(config)]


def memory_plan(
    config: Config, shape: ModelConfig, world_size: int, device_gib: float = ASCEND_MEMORY_GIB
) -> MemoryPlan:
    """The plan of a validated run. Args: device_gib: of a device, of which vLLM takes a share."""
    sizes = _Sizes(config, shape, world_size, device_gib)
    unused, has_critic = unused_parts(config), CRITIC in config.roles
    groups, activations = _used_parts(sizes)
    scoring, saves_models = [role.name for role in _scoring(config)], has_critic or bool(following_roles(config))
    offload = config.actor_config.optimizer.opt_offload
    in_phases = {**groups, optimizer_part(0): sizes.optimizer_part_bytes}
    beside = communicators_of_run(config, shape, world_size)
    needs = {
        name: sum(in_phases[group] for group in phase.resident) + activations.get(name, 0) + groups["graphs"]
        for name, phase in phases_of_run(config, int(offload), sizes.sharing).items()
        if not name.startswith(("restore", "save_"))  # less than an update
        and not (name == "save" and not saves_models)
        and name not in unused
        and not (name == "policy" and not config.scores_policy)
    }
    held = {"actor", "optimizer", BASE, ROLLOUT_BASE, CRITIC.name, "critic_optimizer", *scoring} & set(groups)
    return MemoryPlan(
        groups,
        needs,
        sum(groups.values()) + max(activations.values()) + beside,
        max(needs.values()) + beside,
        beside,
        sum(groups[name] for name in held) if sizes.device != "CPU" else 0,
    )


def communicators_of_run(config: Config, shape: ModelConfig, world_size: int) -> int:
    """Bytes that HCCL takes beside MindSpore's memory."""
    if config.context.device_target == "CPU":
        return 0
    followers = [role.name for role in following_roles(config)]
    return communicator_bytes(shape, role_strategies(config, world_size), world_size, followers)


def memory_parts(
    config: Config, shape: ModelConfig, world_size: int, device_gib: float = ASCEND_MEMORY_GIB
) -> tuple[dict[str, int], dict[str, int]]:
    """(bytes of every group, activations by phase), which a plan puts together; each role's depend on its own settings,
    but for what roles share.
    """
    return _used_parts(_Sizes(config, shape, world_size, device_gib))


def _used_parts(sizes: _Sizes) -> tuple[dict[str, int], dict[str, int]]:
    unused = unused_parts(sizes.config)
    groups = {name: size * (name not in unused) for name, size in sizes.groups().items()}
    return groups, {name: size for name, size in sizes.activations().items() if name not in unused}


class _Sizes:
    """Bytes of a run's groups and activations on its fullest rank."""

    def __init__(self, config: Config, shape: ModelConfig, world_size: int, device_gib: float):
        self.config, self.shape, self.device = config, shape, config.context.device_target
        self.shapes = {role.name: shape_of_role(config, role, shape) for role in config.roles}
        self.world_size, self.device_bytes = world_size, int(device_gib * 2**30)
        self.strategies = role_strategies(config, world_size)
        actor, rl, frozen = config.actor_config, config.rl_config, tuple(config.actor_config.frozen)
        dims = self.strategies["actor"].dims
        scoring = [self.strategies[role.name].dims for role in _scoring(config)]
        parts = lcm(dims.context, *(each.context for each in scoring))
        tokens = config.micro_batch_tokens(dims.shares, config.ref_config.ref_model_batch_size)
        self.trained = StreamShapes(config.micro_batch_tokens(dims.shares), rl.seq_length, parts=parts)
        self.scored = StreamShapes(tokens, rl.seq_length, parts=parts)
        self.slots = config.rollout_slots(self.strategies["rollout"].dims.copies)
        self.kv_heads = max(1, shape.num_key_value_heads // self.strategies["rollout"].dims.tensor)
        self.adapted, self.sharing = with_adapters(config, shape), sharing_roles(config, self.strategies)
        self.has_adapters, moved = self.adapted.adapters is not None, self.adapted.moved
        trained, largest = _numbers(moved, self.strategies["actor"], frozen)
        self.largest, self.gradients = FLOAT32_BYTES * largest, FLOAT32_BYTES * trained  # the largest counts whole
        is_shared = actor.enable_parallel_optimizer and dims.copies > 1
        rows = replace(self.strategies["actor"], splits_data=True)
        is_rounded = config.dtypes("actor")[1] != "float32" and not self.has_adapters
        copies = is_shared or is_rounded  # float32, of the rows that this rank updates
        own = FLOAT32_BYTES * _numbers(moved, rows, frozen)[0] if is_shared else self.gradients
        self.optimizer = (2 + copies) * own
        # with opt_offload its largest part, as the part of which there is one
        bucket = actor.optimizer.opt_offload_bucket_mb << 20
        self.optimizer_part_bytes = min(self.optimizer, max(bucket, (2 + copies) * self.largest))

    def _item(self, role: str, is_stored: bool = False) -> int:
        """Bytes of a number that a role computes with, or stores."""
        return item_bytes(self.config.dtypes(role)[is_stored], self.device)

    def _weights(self, role: str) -> int:
        return self._item(role, is_stored=True) * _numbers(self.shapes[role], self.strategies[role])[0]

    def groups(self) -> dict[str, int]:
        groups = {"actor": self._weights("actor"), "gradients": self.gradients, "optimizer": self.optimizer}
        if self.has_adapters:
            groups |= {"actor": self.gradients, BASE: groups["actor"]}
        for role in scoring_roles(self.config):
            groups[role.name] = (role.name not in self.sharing) * self._weights(role.name)
        groups |= {"rollout": self._weights("rollout"), "kv_cache": self._kv_cache()}
        if self.has_adapters:
            own, moved = groups["rollout"], _numbers(self.adapted.moved, self.strategies["rollout"])[0]
            merged = self.config.merges_adapters * own  # counted whole, also what has no adapter
            groups |= {"rollout": FLOAT32_BYTES * moved + merged, ROLLOUT_BASE: own * ("rollout" not in self.sharing)}
        if self.config.engine_copies_weights:
            groups["engine_weights"] = groups["rollout"]
        groups |= self._of_critic()
        graphs = _GRAPH_BYTES * num_graphs(self.config, self.trained, self.scored)
        groups["graphs"] = graphs if self.device == "CPU" else 0
        return groups

    def _of_critic(self) -> dict[str, int]:
        if CRITIC.name not in self.shapes:
            return {}
        shape = self.shapes[CRITIC.name]
        numbers = partial(_numbers, shape)
        weights = self._weights(CRITIC.name)
        return critic_groups(self.config, self.strategies[CRITIC.name], weights, lambda strategy: numbers(strategy)[0])

    def _kv_cache(self) -> int:
        generate, length = self.config.generate_config, self.config.rl_config.seq_length
        if generate.use_vllm and generate.kv_cache_gb and self.device == "CPU":
            return int(generate.kv_cache_gb * 2**30)
        if generate.use_vllm:
            length = min(generate.max_model_len or length, length)
        numbers = self.slots * length * self.shape.num_hidden_layers * self.kv_heads * self.shape.head_dim
        wanted = 2 * self._item("rollout") * numbers
        if self.config.engine_copies_weights:  # of its share of the device, what its weights leave
            share = int(generate.gpu_memory_utilization * self.device_bytes)
            return max(0, min(wanted, share - self._weights("rollout")))
        return wanted

    def activations(self) -> dict[str, int]:
        """By phase, besides groups."""
        config = self.config
        recompute = config.actor_config.recompute_config
        keeps = "" if recompute.recompute else "products" if recompute.select_recompute else "all"
        prompt = self.kv_heads * self.shape.head_dim * config.generate_config.max_prompt_length
        found = {
            # logits of all slots, and what is drawn from; keys and values of two layers on their way into all slots
            "generate": self.slots * (2 * FLOAT32_BYTES * self.shape.vocab_size + 4 * self._item("rollout") * prompt),
            phase_of_part("step", 0): self.largest + self._left_by_update(),  # a scaled gradient
            "update": self._of_pass("actor", self.trained, True, keeps),
            "policy": self._of_pass("actor", self.scored),
            "reshard": self._messages("rollout"),
        }
        for role in _scoring(config):
            found[role.name] = self._of_pass(role.name, self.scored)
        for role in following_roles(config):  # and a copy of what it was, to be mixed with
            mixes = role.section_of(config).ref_model_mixup_alpha < 1 and role.is_used(config)
            found[role.sync_phase] = self._messages(role.name) + self._weights(role.name) * mixes
        return found | critic_activations(
            self.config,
            lambda tapes, keeps: self._of_pass(CRITIC.name, self.trained if tapes else self.scored, tapes, keeps),
        )

    def _left_by_update(self) -> int:
        """What graphs hold of their last results on a device: as much as seven streams, by the dry run's count of a
        model of 32B with four kinds of micro-batches.
        """
        if self.device == "CPU":
            return 0
        tokens = self.trained.streams[-1] // self.strategies["actor"].dims.context
        return 7 * self._item("actor") * tokens * self.shape.hidden_size

    def _messages(self, role: str) -> int:
        """Of a reshard to a role, besides both models: on a device a message's pieces, and it packed; nothing where
        both models lie alike, and every rank has what it needs.
        """
        bucket = self.config.reshard_bucket_bytes
        if self.device == "CPU":
            return 2 * bucket
        ours, theirs = self.strategies["actor"], self.strategies[role]
        layers = self.shape.num_hidden_layers
        has_same_layers = ours.layers_of_stage(layers) == theirs.layers_of_stage(layers)
        is_local = has_same_layers and ours.dims.tensor == theirs.dims.tensor
        return 0 if is_local else bucket // FLOAT32_BYTES * self._item(role, is_stored=True)

    def _of_pass(self, role: str, shapes: StreamShapes, tapes: bool = False, keeps: str = "") -> int:
        item, strategy = self._item(role), self.strategies[role]
        fused = self.config.has_fused_kernels(role) and self.shapes[role].head_dim % HEAD_MULTIPLE == 0
        brought = self._brought(shapes, fused) // strategy.dims.context
        shape, has_adapters = self.shapes[role], self.has_adapters and role != CRITIC.name
        return activation_bytes(shape, strategy, shapes, self.device, item, tapes, keeps, fused, brought, has_adapters)

    def _brought(self, shapes: StreamShapes, is_fused: bool) -> int:
        """Keys that attention over the largest micro-batch copies; on CPU they count as activations."""
        stream, generate = shapes.streams[-1], self.config.generate_config
        if self.device == "CPU":
            return 0
        if not is_fused:  # every block its own
            return stream // BLOCK * min(shapes.keys[-1], stream)
        completions = -(-stream // generate.sampling_config.max_tokens)  # each repeats its prompt
        return (stream + completions * generate.max_prompt_length) * 5 // 4  # and sizes of which there are few
