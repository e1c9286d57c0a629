"""Estimates of the memory that a pass over a micro-batch takes besides weights; pure numbers."""

from __future__ import annotations

from mindrlhf_lite.parallel.layout import Strategy
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import FLOAT32_BYTES
from mindrlhf_lite.shapes.streams import StreamShapes

_CHUNK_BYTES = {"CPU": 32 << 20, "Ascend": 128 << 20}  # models.logprobs.CHUNK_ELEMENTS in float32


def chunk_numbers(device_target: str) -> int:
    """Of a chunk of logits."""
    return _CHUNK_BYTES[device_target] // FLOAT32_BYTES


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
    most = max(map(len, strategy.layers_of_stage(config.num_hidden_layers)))
    layers = tapes * strategy.dims.pipeline * most
    numbers = layers * (config.hidden_size + of_layer)
    # the one that is computed, float32 among it; a pass of fused kernels alone has hardly any
    layer = (item if is_fused and not tapes else FLOAT32_BYTES) * tokens * 2 * kept
    layer += (not tapes and tensor > 1) * item * tokens * 2 * config.hidden_size  # of sums over tensor ranks
    # keys and values; with a backward pass their gradients, one in float32
    layer += brought * kv_heads * config.head_dim * (4 * item + FLOAT32_BYTES if tapes else 2 * item)
    if tapes and has_adapters and device_target != "CPU":  # what those of an MLP take and give is float32
        layer += FLOAT32_BYTES * tokens * 3 * config.intermediate_size // tensor
    chunk = min(_CHUNK_BYTES[device_target], FLOAT32_BYTES * tokens * config.vocab_size // tensor)
    # a chunk's logits, and what is computed of them; the head's gradient, and a chunk's share in it
    of_table = (not has_adapters) * FLOAT32_BYTES * 2 * config.vocab_size // tensor * config.hidden_size
    head = 4 * chunk + of_table
    if config.has_score:  # no logits; the embedding's gradient takes as much, as the dry run has it
        chunk, head = 0, 0 if device_target == "CPU" else of_table
    if not tapes:
        head = (2 if tensor == 1 else 3) * chunk
    if strategy.dims.context > 1:  # all tokens' keys and values, or last hidden states, and their gradients
        layer += 4 * FLOAT32_BYTES * shapes.streams[-1] * kv_heads * config.head_dim
        head += 2 * FLOAT32_BYTES * shapes.streams[-1] * config.hidden_size
    return item * tokens * numbers + max(layer, head)
