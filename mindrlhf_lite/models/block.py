"""What the blocks of a decoder layer have in common: a norm before them, products, a known result in a product's place.

A block's weights are an argument of its methods, the whole layer's in the order of `DecoderLayer.weights`, so that one
graph serves every layer of a kind. Shapes and names of the weights: shapes/layer_blocks.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Tensor, nn

from mindrlhf_lite.models.adapted_product import adapters_by_place, with_adapter
from mindrlhf_lite.models.kernels import kernels_of
from mindrlhf_lite.models.packed_attention import Known
from mindrlhf_lite.models.precision import Precision, to_compute, weight_to_compute
from mindrlhf_lite.parallel.collectives import enter_tensor_parallel, leave_tensor_parallel
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.shapes.model_config import ModelConfig


class Block(nn.Cell):
    """Args:
    places: of the layer's weights, by their names below its prefix.
    is_trained: whether the weights take gradients.
    """

    input_norm_name: str  # of the norm before the block
    num_products: int  # that `run` returns, for a backward pass

    def __init__(
        self,
        config: ModelConfig,
        places: Mapping[str, int],
        mesh: RoleMesh,
        is_sequence_split: bool,
        precision: Precision,
        is_trained: bool,
    ):
        super().__init__(auto_prefix=False)
        self.low, self.low_weight = to_compute(precision), weight_to_compute(precision, is_trained)
        self.enter = enter_tensor_parallel(mesh.tensor, is_sequence_split)
        self.leave = leave_tensor_parallel(mesh.tensor, is_sequence_split)
        self.kernels = kernels_of(precision, config.head_dim)
        self.multiply, self.known = self.kernels.product(precision, is_trained and config.adapters is None), Known()
        self.pairs, self.scale_of_adapters = (
            adapters_by_place(places),
            config.adapters.scale if config.adapters else 0.0,
        )
        self.normalise, self.input_norm = (
            self.kernels.norm(precision, config.rms_norm_eps),
            places[self.input_norm_name],
        )

    def product(self, x: Tensor, weights: tuple, place: int) -> Tensor:
        """x [tokens, in] through the linear at `place` of the layer's weights, with its adapter -> [tokens, out]."""
        result, pair = self.multiply(x, weights[place]), self.pairs[place]
        if len(pair) == 0:
            return result
        return self.low(with_adapter(result, x, weights[pair[0]], weights[pair[1]], self.scale_of_adapters))

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.normalise(x, self.low_weight(weight))

    def normed(self, x: Tensor, weights: tuple) -> Tensor:
        """The block's input of this rank [tokens, H], of the residual stream x."""
        return self.enter(self.norm(x, weights[self.input_norm]))
