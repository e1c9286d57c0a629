"""How much memory a run needs on its fullest rank, by group of weights and by phase; pure numbers.

Weights, gradients, moments and the KV cache are counted from the layouts, byte for byte as the program allocates them:
gradients, moments and masters are float32, the others what the settings say. Activations are an estimate: what layers
keep for the backward pass, a chunk's logits, the head's gradient. On CPU compiled graphs lie in the same memory: as if
every shape that can occur had occurred, each at what one was found to take (docs/design.md); not the vLLM engine's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import lcm, prod

from mindrlhf_lite.config.adapters import sharing_roles, with_adapters
from mindrlhf_lite.config.communicators import communicator_bytes
from mindrlhf_lite.config.roles import BASE, ROLLOUT_BASE, RoleSpec, following_roles, phases_of_run, scoring_roles
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
_TRAINING_GRAPHS, _SCORING_GRAPHS, _PREFILL_GRAPHS = 5, 3, 2  # a shape
_CHUNK_BYTES = {"CPU": 32 << 20, "Ascend": 128 << 20}  # models.logprobs.CHUNK_ELEMENTS in float32


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


def chunk_numbers(device_target: str) -> int:
    """Of a chunk of logits."""
    return _CHUNK_BYTES[device_target] // FLOAT32_BYTES


def item_bytes(dtype: str, device_target: str) -> int:
    """Bytes of a number. On CPU bfloat16 is emulated in float32."""
    return 2 if dtype == "float16" or (dtype == "bfloat16" and device_target != "CPU") else FLOAT32_BYTES


@cache
def _numbers(config: ModelConfig, strategy: Strategy, frozen: tuple[str, ...] = ()) -> tuple[int, int]:
    """(numbers of the fullest stage, of the largest buffer). Args: frozen: names of parameters that do not count."""
    sizes, largest, left_out = [], 0, {spec.name for spec in parameter_specs(config, frozen) if not spec.is_trained}
    for stage in range(strategy.dims.pipeline):
        counted = buffers_at(config, strategy, Coordinates(0, 0, stage))
        sizes.append(sum(prod(each.shape) for each in counted if each.name not in left_out))
        largest = max(largest, *(prod(each.shape) for each in counted))
    return max(sizes), largest


def activation_bytes(
    config: ModelConfig,
    strategy: Strategy,
    shapes: StreamShapes,
    device_target: str,
    item: int,
    tapes: bool,
    keeps: str,
    is_fused: bool,
    brought: int = 0,
    has_adapters: bool = False,
) -> int:
    """Estimate for the largest micro-batch on the fullest stage.

    Args: item: bytes of a number of the compute type; tapes: whether a backward pass follows, for which layers' inputs
    are kept, on the first stage of as many micro-batches as there are stages; keeps: and of each "all" that
    `DecoderLayer.run` returns, "products", or "" nothing; is_fused: whether attention is one kernel; brought: keys
    that attention brings together in a copy of their own; has_adapters: then the head takes no gradients.
    """
    tokens, keys, tensor = shapes.streams[-1] // strategy.dims.context, shapes.keys[-1], strategy.dims.tensor
    heads, kv_heads = config.num_attention_heads // tensor, max(1, config.num_key_value_heads // tensor)
    kept = (  # numbers a token and layer: q, k, v, attended, added; gate, up
        2 * (heads + kv_heads) * config.head_dim + config.hidden_size + 2 * config.intermediate_size // tensor
    )
    # attention probabilities; of a fused kernel eight copies of two float32 numbers a row
    probabilities = heads * 2 * 8 * FLOAT32_BYTES // item if is_fused else heads * keys
    of_layer = {"": 0, "products": kept - heads * config.head_dim, "all": kept + probabilities}[keeps]
    kept += probabilities
    layers = 0
    if tapes:
        layers = strategy.dims.pipeline * max(map(len, strategy.layers_of_stage(config.num_hidden_layers)))
    numbers = layers * (config.hidden_size + of_layer)
    # the one that is computed, float32 among it; a pass of fused kernels alone has hardly any
    layer = (item if is_fused and not tapes else FLOAT32_BYTES) * tokens * 2 * kept
    # keys and values; with a backward pass their gradients, one in float32
    layer += brought * kv_heads * config.head_dim * (4 * item + FLOAT32_BYTES if tapes else 2 * item)
    if tapes and has_adapters and device_target != "CPU":  # what those of an MLP take and give is float32
        layer += FLOAT32_BYTES * tokens * 3 * config.intermediate_size // tensor
    chunk = min(_CHUNK_BYTES[device_target], FLOAT32_BYTES * tokens * config.vocab_size // tensor)
    # a chunk's logits, and what is computed of them; the head's gradient, and a chunk's share in it
    head = 4 * chunk + (not has_adapters) * FLOAT32_BYTES * 2 * config.vocab_size // tensor * config.hidden_size
    if not tapes:
        head = (2 if tensor == 1 else 3) * chunk
    if strategy.dims.context > 1:  # all tokens' keys and values, or last hidden states, and their gradients
        layer += 4 * FLOAT32_BYTES * shapes.streams[-1] * kv_heads * config.head_dim
        head += 2 * FLOAT32_BYTES * shapes.streams[-1] * config.hidden_size
    return item * tokens * numbers + max(layer, head)


def num_graphs(config: Config, trained: StreamShapes, scored: StreamShapes) -> int:
    """Graphs that a rank compiles at most, besides those of the vLLM engine. Args: trained, scored: shapes of
    micro-batches.
    """
    rl = config.rl_config
    scorers = len(_scoring(config)) + config.keeps_frozen_policy
    prefill = 0 if config.generate_config.use_vllm else len(rl.length_buckets or default_buckets(rl.seq_length))
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
    """The plan of a run whose settings have been validated. Args: device_gib: of a device, of which vLLM takes a
    share.
    """
    sizes = _Sizes(config, shape, world_size, device_gib)
    groups, activations = sizes.groups(), sizes.activations()
    scoring, saves_models = [role.name for role in _scoring(config)], bool(following_roles(config))
    unused = {role.name for role in scoring_roles(config)} - set(scoring)
    offload = config.actor_config.optimizer.opt_offload
    in_phases = {**groups, optimizer_part(0): sizes.optimizer_part_bytes}
    beside = sizes.communicators()
    needs = {
        name: sum(in_phases[group] for group in phase.resident) + activations.get(name, 0) + groups["graphs"]
        for name, phase in phases_of_run(config, int(offload), sizes.sharing).items()
        if not name.startswith(("restore", "save_"))  # less than an update
        and not (name == "save" and not saves_models)
        and name not in unused
        and not (name == "policy" and not config.keeps_frozen_policy)
    }
    kept = (*({"actor", BASE, ROLLOUT_BASE} & set(groups)), "optimizer", *scoring) if sizes.device != "CPU" else ()
    return MemoryPlan(
        groups,
        needs,
        sum(groups.values()) + max(activations.values()) + beside,
        max(needs.values()) + beside,
        beside,
        sum(groups[name] for name in kept),
    )


class _Sizes:
    """Bytes of a run's groups and activations on its fullest rank."""

    def __init__(self, config: Config, shape: ModelConfig, world_size: int, device_gib: float):
        self.config, self.shape, self.device = config, shape, config.context.device_target
        self.world_size, self.device_bytes = world_size, int(device_gib * 2**30)
        self.strategies = role_strategies(config, world_size)
        actor, rl = config.actor_config, config.rl_config
        dims = self.strategies["actor"].dims
        scoring = [self.strategies[role.name].dims for role in _scoring(config)]
        parts = lcm(dims.context, *(each.context for each in scoring))
        tokens = config.micro_batch_tokens(dims.shares, config.ref_config.ref_model_batch_size)
        self.trained = StreamShapes(config.micro_batch_tokens(dims.shares), rl.seq_length, parts=parts)
        self.scored = StreamShapes(tokens, rl.seq_length, parts=parts)
        self.slots = config.rollout_slots(self.strategies["rollout"].dims.copies)
        self.kv_heads = max(1, shape.num_key_value_heads // self.strategies["rollout"].dims.tensor)
        frozen = tuple(actor.frozen)
        self.adapted, self.sharing = with_adapters(config, shape), sharing_roles(config, self.strategies)
        self.has_adapters, moved = self.adapted.adapters is not None, self.adapted.moved
        trained, largest = _numbers(moved, self.strategies["actor"], frozen)
        self.largest = FLOAT32_BYTES * largest  # counted whole
        is_shared = actor.enable_parallel_optimizer and dims.copies > 1
        self.gradients = FLOAT32_BYTES * trained
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
        return self._item(role, is_stored=True) * _numbers(self.shape, self.strategies[role])[0]

    def groups(self) -> dict[str, int]:
        groups = {"actor": self._weights("actor"), "gradients": self.gradients, "optimizer": self.optimizer}
        if self.has_adapters:
            groups |= {"actor": self.gradients, BASE: groups["actor"]}
        for role in scoring_roles(self.config):
            is_held = role.is_used(self.config) and role.name not in self.sharing
            groups[role.name] = is_held * self._weights(role.name)
        groups |= {"rollout": self._weights("rollout"), "kv_cache": self._kv_cache()}
        if self.has_adapters:
            own, moved = groups["rollout"], _numbers(self.adapted.moved, self.strategies["rollout"])[0]
            merged = self.config.merges_adapters * own  # counted whole, also what has no adapter
            groups |= {"rollout": FLOAT32_BYTES * moved + merged, ROLLOUT_BASE: own * ("rollout" not in self.sharing)}
        if self.config.engine_copies_weights:
            groups["engine_weights"] = groups["rollout"]
        graphs = _GRAPH_BYTES * num_graphs(self.config, self.trained, self.scored)
        groups["graphs"] = graphs if self.device == "CPU" else 0
        return groups

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

    def communicators(self) -> int:
        """What HCCL takes beside MindSpore's memory."""
        if self.device == "CPU":
            return 0
        followers = [role.name for role in following_roles(self.config)]
        return communicator_bytes(self.shape, self.strategies, self.world_size, followers)

    def activations(self) -> dict[str, int]:
        """By phase, besides groups."""
        config = self.config
        recompute = config.actor_config.recompute_config
        keeps = "" if recompute.recompute else "products" if recompute.select_recompute else "all"
        prompt = self.kv_heads * self.shape.head_dim * config.generate_config.max_prompt_length
        found = {
            # logits of all slots, and what is drawn from; keys and values of two layers on their way into all slots
            "generate": self.slots * (2 * FLOAT32_BYTES * self.shape.vocab_size + 4 * self._item("rollout") * prompt),
            phase_of_part("step", 0): self.largest,  # a scaled gradient
            "update": self._of_pass("actor", self.trained, True, keeps),
            "policy": self._of_pass("actor", self.scored),
            "reshard": self._messages("rollout"),
        }
        for role in _scoring(config):
            found[role.name] = self._of_pass(role.name, self.scored)
        for role in following_roles(config):  # and a copy of what it was, to be mixed with
            mixes = role.section_of(config).ref_model_mixup_alpha < 1 and role.is_used(config)
            found[role.sync_phase] = self._messages(role.name) + self._weights(role.name) * mixes
        return found

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
        fused = self.config.has_fused_kernels(role) and self.shape.head_dim % HEAD_MULTIPLE == 0
        brought = self._brought(shapes, fused) // strategy.dims.context
        given = (self.shape, strategy, shapes, self.device, item, tapes, keeps, fused, brought, self.has_adapters)
        return activation_bytes(*given)

    def _brought(self, shapes: StreamShapes, is_fused: bool) -> int:
        """Keys that attention over the largest micro-batch copies; on CPU they count as activations."""
        stream, generate = shapes.streams[-1], self.config.generate_config
        if self.device == "CPU":
            return 0
        if not is_fused:  # every block its own
            return stream // BLOCK * min(shapes.keys[-1], stream)
        completions = -(-stream // generate.sampling_config.max_tokens)  # each repeats its prompt
        return (stream + completions * generate.max_prompt_length) * 5 // 4  # and sizes of which there are few
