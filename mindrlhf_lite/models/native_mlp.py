"""The MLP block by the CPU's own operators."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Tensor

from mindrlhf_lite.models.adapted_product import adapters_at
from mindrlhf_lite.models.mlp import GatedMlp
from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.native import step_operators
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.shapes.model_config import ModelConfig


class NativeGatedMlp(GatedMlp):
    """`GatedMlp` by the CPU's operators."""

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
        self.is_split = mesh.tensor is not None  # the stream is added after the ranks' sum
        self.decode = step_operators.MlpStep(config.rms_norm_eps, not self.is_split, self.scale_of_adapters)

    def step(self, x: Tensor, weights: tuple) -> Tensor:
        """The residual stream of every slot's newest token as columns [H, slots] -> after this block."""
        places = (self.gate, self.up, self.down)
        own = (weights[self.gate], weights[self.up], weights[self.down])
        found = self.decode(x, weights[self.input_norm], *own, adapters_at(self.pairs, weights, places))
        return x + self.leave(found) if self.is_split else found


NATIVE_MLPS = {"gated": NativeGatedMlp}  # by the names of shapes.layer_blocks.BLOCKS
