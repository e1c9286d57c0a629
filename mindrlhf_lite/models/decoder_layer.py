"""One decoder layer of two blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import mindspore as ms
from mindspore import Parameter, Tensor, nn

from mindrlhf_lite.models.mlp import MLPS
from mindrlhf_lite.models.native_attention import NATIVE_ATTENTIONS
from mindrlhf_lite.models.native_mlp import NATIVE_MLPS
from mindrlhf_lite.models.precision import Precision, to_compute
from mindrlhf_lite.models.span_attention import attentions_of
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.shapes.model_config import ModelConfig


def without_absent_kernels(precision: Precision, config: ModelConfig) -> Precision:
    """Without native kernels where a kind of block has none."""
    kinds = {config.blocks_of(number) for number in range(config.num_hidden_layers)}
    has_all = all(attention in NATIVE_ATTENTIONS and mlp in NATIVE_MLPS for attention, mlp in kinds)
    return precision if has_all else replace(precision, has_native_kernels=False)


class DecoderLayer(nn.Cell):
    """One decoder layer: an attention block and an MLP block on the residual stream. Its methods take the weights as an
    argument, in the order of `weights`, so that one graph can serve every layer of a kind; a graph of all layers passes
    each its own `weights`.

    `kind`: layers of one kind compute alike.
    """

    def __init__(
        self,
        config: ModelConfig,
        number: int,
        parameters: Mapping[str, Parameter],
        mesh: RoleMesh,
        is_sequence_split: bool,
        precision: Precision,
        is_trained: bool,
    ):
        super().__init__(auto_prefix=False)
        self.precision, self.low, self.kind = precision, to_compute(precision), config.blocks_of(number)
        prefix = f"model.layers.{number}."
        names = [name for name in parameters if name.startswith(prefix)]
        self.weights = ms.ParameterTuple([parameters[name] for name in names])
        places = {name.removeprefix(prefix): place for place, name in enumerate(names)}
        attention, mlp = self.kind
        shared = (config, places, mesh, is_sequence_split, precision, is_trained)
        self.attention = attentions_of(precision, config.head_dim)[attention](*shared)
        self.mlp = (NATIVE_MLPS if precision.has_native_kernels else MLPS)[mlp](*shared)
        self.num_products = self.attention.num_products + self.mlp.num_products

    def finish(self, x: Tensor, attended: Tensor, weights: tuple) -> Tensor:
        """Adds the attention output ([tokens, heads * D]) and the MLP to the residual stream x [tokens, H]."""
        x = self.low(x + self.attention.added(attended, weights))
        return self.low(x + self.mlp.run(x, weights)[0])

    def run(self, x: Tensor, weights: tuple, inputs: tuple, known: tuple = ()) -> tuple[Tensor, tuple]:
        """The layer over a stream of packed sequences x [T, H].

        Args: inputs: as of `Decoder.attention_inputs`; known: the second result of an earlier run, or its first
        `num_products` entries, or (). What is known does not run again, for a backward pass.
        Returns: (output [T, H], the blocks' matrix products, then attention's results).
        """
        of_attention = self.attention.num_products
        products, of_mlp = known[:of_attention], known[of_attention : self.num_products]
        added, products, results = self.attention.run(x, weights, inputs, products, known[self.num_products :])
        x = self.low(x + added)
        added, of_mlp = self.mlp.run(x, weights, of_mlp)
        return self.low(x + added), (*products, *of_mlp, *results)
