"""The MLP block of a decoder layer. Its weights are an argument, as those of attention are (models/attention.py)."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Tensor, nn

from mindrlhf_lite.models.attention import Product
from mindrlhf_lite.models.kernels import kernels_of
from mindrlhf_lite.models.packed_attention import Known
from mindrlhf_lite.models.precision import Precision, to_compute, weight_to_compute
from mindrlhf_lite.parallel.collectives import enter_tensor_parallel, leave_tensor_parallel
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.shapes.model_config import ModelConfig


class GatedMlp(nn.Cell):
    """down(silu(gate(x)) * up(x)) of the normed stream (SwiGLU, arXiv:2002.05202). Args: as of attention."""

    num_products = 2  # that `run` returns, for a backward pass: gate, up

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
        self.product, self.known = Product(precision, is_trained), Known()
        self.enter = enter_tensor_parallel(mesh.tensor, is_sequence_split)
        self.leave = leave_tensor_parallel(mesh.tensor, is_sequence_split)
        self.input_norm = places["post_attention_layernorm.weight"]
        self.gate, self.up, self.down = (places[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        kernels = kernels_of(precision, config.head_dim)
        self.normalise, self.gated = kernels.norm(precision, config.rms_norm_eps), kernels.gate(precision)

    def run(self, x: Tensor, weights: tuple, products: tuple = ()) -> tuple[Tensor, tuple]:
        """Args: x: the residual stream [tokens, H]; products: of an earlier run, which then do not run again, or ().

        Returns: (what is added to the stream [tokens, H], its products).
        """
        normed = self.enter(self.normalise(x, self.low_weight(weights[self.input_norm])))
        gate, up = self.product(normed, weights[self.gate]), self.product(normed, weights[self.up])
        if len(products) > 0:
            gate, up = self.known(gate, products[0]), self.known(up, products[1])
        added = self.leave(self.product(self.gated(gate, up), weights[self.down]))
        return self.low(added), (gate, up)


MLPS = {"gated": GatedMlp}  # by the names of shapes.layer_blocks.BLOCKS
