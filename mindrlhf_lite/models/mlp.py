"""The MLP block of a decoder layer."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Tensor

from mindrlhf_lite.models.block import Block
from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.shapes.model_config import ModelConfig


class GatedMlp(Block):
    """down(silu(gate(x)) * up(x)) of the normed stream (SwiGLU, arXiv:2002.05202)."""

    input_norm_name = "post_attention_layernorm.weight"
    num_products = 2  # gate, up

    def __init__(
        self,
        config: ModelConfig,
        places: Mapping[str, int],
        mesh: RoleMesh,
        is_sequence_split: bool,
        precision: Precision,
        is_trained: bool,
    ):
        super().__init__(config, places, mesh, is_sequence_split, precision, is_trained)
        self.gate, self.up, self.down = (places[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        self.gated = self.kernels.gate(precision)

    def run(self, x: Tensor, weights: tuple, products: tuple = ()) -> tuple[Tensor, tuple]:
        """Args: x: the residual stream [tokens, H]; products: of an earlier run, which then do not run again, or ().

        Returns: (what is added to the stream [tokens, H], its products).
        """
        normed = self.normed(x, weights)
        gate, up = self.product(normed, weights, self.gate), self.product(normed, weights, self.up)
        if len(products) > 0:
            gate, up = self.known(gate, products[0]), self.known(up, products[1])
        added = self.leave(self.product(self.gated(gate, up), weights, self.down))
        return self.low(added), (gate, up)


MLPS = {"gated": GatedMlp}  # by the names of shapes.layer_blocks.BLOCKS
