"""The blocks of a decoder layer as data: the parameters of each kind of attention and of MLP, and what a backward pass
keeps of it.

models/attention.py and models/mlp.py compute them, under the same names. A new kind is an entry here and a class there;
`ModelConfig.blocks_of` says which layers have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mindrlhf_lite.shapes.model_config import ModelConfig


class BlockParameter(NamedTuple):
    """A parameter of a block, below its layer's prefix.

    Example: BlockParameter("mlp.up_proj.weight", (4864, 896), 0, 4864)
    """

    name: str
    shape: tuple[int, ...]
    tensor_dim: int | None = None  # as of ParameterSpec
    units: int = 1  # as of ParameterSpec


@dataclass(frozen=True)
class BlockShape:
    """A kind of block. `parameters`: in forward order; `products`, `results`: numbers a token that its matrix products,
    and its attention, leave for the backward pass on one of so many tensor ranks.
    """

    parameters: Callable[[ModelConfig], list[BlockParameter]]
    products: Callable[[ModelConfig, int], int]
    results: Callable[[ModelConfig, int], int] = lambda config, tensor: 0


def _grouped_query_parameters(config: ModelConfig) -> list[BlockParameter]:
    hidden, head, architecture = config.hidden_size, config.head_dim, config.architecture
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads

    def projection(name: str, count: int) -> list[BlockParameter]:
        weight = BlockParameter(f"self_attn.{name}_proj.weight", (count * head, hidden), 0, count)
        bias = BlockParameter(f"self_attn.{name}_proj.bias", (count * head,), 0, count)
        return [weight, bias] if architecture.has_qkv_bias else [weight]

    qk_norms = [BlockParameter("self_attn.q_norm.weight", (head,)), BlockParameter("self_attn.k_norm.weight", (head,))]
    return [
        BlockParameter("input_layernorm.weight", (hidden,)),
        *projection("q", heads),
        *projection("k", kv_heads),
        *(qk_norms if architecture.has_qk_norm else []),
        *projection("v", kv_heads),
        BlockParameter("self_attn.o_proj.weight", (hidden, heads * head), 1, heads),
    ]


def _gated_parameters(config: ModelConfig) -> list[BlockParameter]:
    hidden, inner = config.hidden_size, config.intermediate_size
    return [
        BlockParameter("post_attention_layernorm.weight", (hidden,)),
        BlockParameter("mlp.gate_proj.weight", (inner, hidden), 0, inner),
        BlockParameter("mlp.up_proj.weight", (inner, hidden), 0, inner),
        BlockParameter("mlp.down_proj.weight", (hidden, inner), 1, inner),
    ]


def _grouped_query_products(config: ModelConfig, tensor: int) -> int:
    heads, kv_heads = config.num_attention_heads // tensor, max(1, config.num_key_value_heads // tensor)
    return (heads + 2 * kv_heads) * config.head_dim + config.hidden_size  # q, k, v, added


BLOCKS = {
    "grouped_query": BlockShape(
        _grouped_query_parameters,
        _grouped_query_products,
        lambda config, tensor: config.num_attention_heads // tensor * config.head_dim,  # attended
    ),
    "gated": BlockShape(_gated_parameters, lambda config, tensor: 2 * config.intermediate_size // tensor),  # gate, up
}
