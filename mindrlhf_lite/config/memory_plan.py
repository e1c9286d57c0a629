"""How much memory a run needs on its fullest rank, by group of weights and by phase; pure numbers.

Weights, gradients, moments and the KV cache are counted from the layouts, byte for byte as the program allocates them:
gradients, moments and masters are float32, the others what the settings say. Activations are an estimate: what the
layers keep for the backward pass, the logits of one chunk, the gradient of the head. On CPU, where compiled graphs lie
in the same memory, they are counted as if every shape that can occur had occurred, each at what one was found to take
(docs/design.md); the vLLM engine's are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import lcm, prod

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.parallel.dims import Coordinates
from mindrlhf_lite.parallel.layout import Strategy, buffers_at
from mindrlhf_lite.shapes.buckets import default_buckets
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.swap.phases import optimizer_part, phase_of_part, phases

ITEM_BYTES = 4  # of a float32
_GRAPH_BYTES = 8 << 20
_TRAINING_GRAPHS, _SCORING_GRAPHS, _PREFILL_GRAPHS = 5, 3, 2  # a shape
_CHUNK_BYTES = {"CPU": 32 << 20, "Ascend": 128 << 20}  # models.logprobs.CHUNK_ELEMENTS in float32


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on the fullest rank. `phases` hold the groups that a phase has in memory with swapping on, its activations,
    and graphs, which stay.
    """

    groups: dict[str, int]
    phases: dict[str, int]
    without_swap: int
    with_swap: int


def item_bytes(dtype: str, device_target: str) -> int:
    """Bytes of a number. On CPU bfloat16 is emulated in float32."""
    return 2 if dtype == "float16" or (dtype == "bfloat16" and device_target != "CPU") else ITEM_BYTES


def _buffer_bytes(config: ModelConfig, strategy: Strategy, item: int = ITEM_BYTES) -> int:
    """Of the fullest stage. Args: item: bytes of a number."""
    sizes = []
    for stage in range(strategy.dims.pipeline):
        total = 0
        for buffer in buffers_at(config, strategy, Coordinates(0, 0, stage)):
            total += item * prod(buffer.shape)
        sizes.append(total)
    return max(sizes)


def activation_bytes(
    config: ModelConfig,
    strategy: Strategy,
    shapes: StreamShapes,
    device_target: str,
    item: int,
    tapes: bool,
    keeps: str,
    is_fused: bool,
) -> int:
    """Estimate for the largest micro-batch on the fullest stage.

    Args: item: bytes of a number of the compute type; tapes: whether a backward pass follows, for which layers' inputs
    are kept, on the first stage of as many micro-batches as there are stages; keeps: and of each "all" that
    `DecoderLayer.run` returns, "products", or "" nothing; is_fused: whether attention is one kernel.
    """
    tokens, keys, tensor = shapes.streams[-1] // strategy.dims.context, shapes.keys[-1], strategy.dims.tensor
    heads, kv_heads = config.num_attention_heads // tensor, max(1, config.num_key_value_heads // tensor)
    kept = (  # numbers a token and layer: q, k, v, attended, added; gate, up
        2 * (heads + kv_heads) * config.head_dim + config.hidden_size + 2 * config.intermediate_size // tensor
    )
    # attention probabilities; of a fused kernel eight copies of two float32 numbers a row
    probabilities = heads * 2 * 8 * ITEM_BYTES // item if is_fused else heads * keys
    of_layer = {"": 0, "products": kept - heads * config.head_dim, "all": kept + probabilities}[keeps]
    kept += probabilities
    layers = 0
    if tapes:
        layers = strategy.dims.pipeline * max(map(len, strategy.layers_of_stage(config.num_hidden_layers)))
    numbers = layers * (config.hidden_size + of_layer)
    layer = ITEM_BYTES * tokens * 2 * kept  # the one that is computed, float32 among it
    chunk = min(_CHUNK_BYTES[device_target], ITEM_BYTES * tokens * config.vocab_size // tensor)
    # logits of a chunk, and what is computed of them; the gradient of the head, and a chunk's share in it
    head = 4 * chunk + ITEM_BYTES * 2 * config.vocab_size // tensor * config.hidden_size
    if not tapes:
        head = (2 if tensor == 1 else 3) * chunk
    if strategy.dims.context > 1:  # all tokens' keys and values, or last hidden states, and their gradients
        layer += 4 * ITEM_BYTES * shapes.streams[-1] * kv_heads * config.head_dim
        head += 2 * ITEM_BYTES * shapes.streams[-1] * config.hidden_size
    return item * tokens * numbers + max(layer, head)


def num_graphs(config: Config, trained: StreamShapes, scored: StreamShapes) -> int:
    """Graphs that a rank compiles at most, besides those of the vLLM engine. Args: trained, scored: shapes of
    micro-batches.
    """
    rl = config.rl_config
    scorers = (rl.beta > 0) + config.keeps_frozen_policy
    prefill = 0 if config.generate_config.use_vllm else len(rl.length_buckets or default_buckets(rl.seq_length))
    return (
        _TRAINING_GRAPHS * trained.num_graphs
        + _SCORING_GRAPHS * scorers * scored.num_graphs
        + _PREFILL_GRAPHS * prefill
        + 1
    )


def memory_plan(config: Config, shape: ModelConfig, world_size: int) -> MemoryPlan:
    """The plan of a run whose settings have been validated."""
    rl, actor, strategies = config.rl_config, config.actor_config, role_strategies(config, world_size)
    device = config.context.device_target
    (compute, param), reference, rollout = config.dtypes("actor"), config.dtypes("ref"), config.dtypes("generate")
    gradients = _buffer_bytes(shape, strategies.actor)
    is_shared = actor.enable_parallel_optimizer and strategies.actor.dims.data > 1
    rows = _buffer_bytes(shape, replace(strategies.actor, splits_data=True)) if is_shared else gradients
    largest = ITEM_BYTES * max(  # of the parameters; counted whole
        prod(buffer.shape)
        for stage in {0, strategies.actor.dims.pipeline - 1}
        for buffer in buffers_at(shape, strategies.actor, Coordinates(0, 0, stage))
    )
    copies = is_shared or param != "float32"  # float32, of the rows that this rank updates
    kv_heads = max(1, shape.num_key_value_heads // strategies.rollout.dims.tensor)
    generate, slots = config.generate_config, config.rollout_slots(strategies.rollout.dims.data)
    cache_length = rl.seq_length
    if generate.use_vllm:
        cache_length = min(generate.max_model_len or rl.seq_length, rl.seq_length)
    kv_cache = (
        2 * item_bytes(rollout[0], device) * slots * cache_length * shape.num_hidden_layers * kv_heads * shape.head_dim
    )
    if generate.use_vllm and generate.kv_cache_gb and config.context.device_target == "CPU":
        kv_cache = int(generate.kv_cache_gb * 2**30)
    groups = {
        "actor": _buffer_bytes(shape, strategies.actor, item_bytes(param, device)),
        "gradients": gradients,
        "optimizer": (2 + copies) * rows,
        "reference": (rl.beta > 0) * _buffer_bytes(shape, strategies.reference, item_bytes(reference[1], device)),
        "rollout": _buffer_bytes(shape, strategies.rollout, item_bytes(rollout[1], device)),
        "kv_cache": kv_cache,
    }
    if config.engine_copies_weights:
        groups["engine_weights"] = groups["rollout"]
    degree = strategies.actor.dims.shares
    parts = lcm(strategies.actor.dims.context, strategies.reference.dims.context if rl.beta > 0 else 1)
    scoring_tokens = config.micro_batch_tokens(degree, config.ref_config.ref_model_batch_size)
    trained = StreamShapes(config.micro_batch_tokens(degree), rl.seq_length, parts=parts)
    scored = StreamShapes(scoring_tokens, rl.seq_length, parts=parts)
    recompute = actor.recompute_config
    keeps = "" if recompute.recompute else "products" if recompute.select_recompute else "all"
    reference_moves, alpha = config.ref_config.sync_ref_model, config.ref_config.ref_model_mixup_alpha
    groups["graphs"] = _GRAPH_BYTES * num_graphs(config, trained, scored) if device == "CPU" else 0
    fused = config.has_fused_kernels("actor")
    item, of_reference = item_bytes(compute, device), item_bytes(reference[0], device)
    scoring = activation_bytes(
        shape, strategies.reference, scored, device, of_reference, False, "", config.has_fused_kernels("ref")
    )
    activations = {
        # logits of all slots, and what is drawn from; keys and values of two layers on their way into all slots
        "generate": slots
        * (
            2 * ITEM_BYTES * shape.vocab_size
            + 4 * item_bytes(rollout[0], device) * kv_heads * shape.head_dim * generate.max_prompt_length
        ),
        phase_of_part("step", 0): largest,  # a scaled gradient
        "update": activation_bytes(shape, strategies.actor, trained, device, item, True, keeps, fused),
        "policy": activation_bytes(shape, strategies.actor, scored, device, item, False, "", fused),
        "reference": scoring if rl.beta > 0 else 0,
        "reshard": 2 * rl.reshard_bucket_mb << 20,
        # and a copy of what it was, to be mixed with
        "sync_reference": (2 * rl.reshard_bucket_mb << 20) + groups["reference"] * (alpha < 1)
        if reference_moves
        else 0,
    }
    # with opt_offload its largest part, as the part of which there is one
    offload = actor.optimizer.opt_offload
    bucket = actor.optimizer.opt_offload_bucket_mb << 20
    in_phases = {**groups, optimizer_part(0): min(groups["optimizer"], max(bucket, (2 + copies) * largest))}
    needs = {
        name: sum(in_phases[group] for group in phase.resident) + activations.get(name, 0) + groups["graphs"]
        for name, phase in phases(
            rl.reshard_mem_opt_level, reference_moves, int(offload), config.engine_copies_weights
        ).items()
        if not name.startswith(("restore", "save_"))  # less than an update
        and not (name == "save" and not reference_moves)
        and not (name == "reference" and rl.beta == 0)
        and not (name == "policy" and not config.keeps_frozen_policy)
    }
    return MemoryPlan(groups, needs, sum(groups.values()) + max(activations.values()), max(needs.values()))
