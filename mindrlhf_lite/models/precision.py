"""What a model's matrix products are computed in, and what its parameters are stored as.

Products, the residual stream, keys and values are of the compute type; norms, softmax, rotary embedding, the logprobs
and all of the loss are float32 whatever it is. A stored type below float32 leaves the optimizer to keep float32 masters
(Micikevicius et al., arXiv:1710.03740).

MindSpore's CPU has no bfloat16 kernels. There bfloat16 means float32 numbers that are rounded to bfloat16 wherever a
device would store one; gradients are rounded on the way back, at the same places.
"""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindrlhf_lite.models.stored_numbers import narrow_bfloat16, widen_bfloat16
from mindrlhf_lite.native.library import library


@dataclass(frozen=True)
class Precision:
    """Names as MindFormers has them: float32, bfloat16 or float16.

    Args:
        compute: of matrix products and of what passes between them.
        param: of the parameters.
        is_emulated: bfloat16 as rounded float32.
        has_fused_kernels, has_native_kernels: see models/kernels.py.
    """

    compute: str = "float32"
    param: str = "float32"
    is_emulated: bool = False
    has_fused_kernels: bool = False
    has_native_kernels: bool = False

    @staticmethod
    def here(compute: str, param: str = "", is_fused: bool = False, is_native: bool = False) -> Precision:
        """On the device that is set. Args: param: "" is `compute`; is_fused, is_native: whether such kernels are wanted
        where there are any.
        """
        param, is_cpu = param or compute, ms.get_context("device_target") == "CPU"
        return Precision(
            compute,
            param,
            is_emulated=is_cpu and "bfloat16" in (compute, param),
            has_fused_kernels=is_fused and not is_cpu and compute != "float32",
            has_native_kernels=is_native and is_cpu and compute == param == "float32" and library().path != "",
        )

    def _type(self, name: str) -> ms.Type:
        return getattr(ms, "float32" if name == "bfloat16" and self.is_emulated else name)

    @property
    def activations(self) -> ms.Type:
        """Type of the tensors between layers."""
        return self._type(self.compute)

    @property
    def storage(self) -> ms.Type:
        """Type of the parameters."""
        return self._type(self.param)

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """float32 values as the parameters can hold them: float16, or float32."""
        if self.param == "bfloat16" and self.is_emulated:
            return widen_bfloat16(narrow_bfloat16(np.ascontiguousarray(values, np.float32)))
        return values.astype(np.float16 if self.param == "float16" else np.float32)

    def stored(self, values: np.ndarray) -> Tensor:
        """A copy of float32 values, of the parameters' type."""
        return Tensor(np.array(self.rounded(values)), self.storage)


FLOAT32 = Precision()


class _Rounded(nn.Cell):
    """x in another type; its gradient in x's own, rounded on the way where bfloat16 is emulated."""

    def __init__(self, is_emulated: bool, dtype: ms.Type):
        super().__init__(auto_prefix=False)
        self.is_emulated, self.type = is_emulated, dtype

    def construct(self, x: Tensor) -> Tensor:
        if self.is_emulated:
            return x.astype(ms.bfloat16).astype(ms.float32)
        return x.astype(self.type)


def to_compute(precision: Precision) -> nn.Cell:
    """x in the compute type."""
    return _Rounded(precision.is_emulated and precision.compute == "bfloat16", precision.activations)


def to_storage(precision: Precision) -> nn.Cell:
    """x in the parameters' type."""
    return _Rounded(precision.is_emulated and precision.param == "bfloat16", precision.storage)


def weight_to_compute(precision: Precision, is_trained: bool) -> nn.Cell:
    """For weights as they are used; the identity where they are of the compute type already, and no gradient has to be
    rounded.
    """
    if precision.param == precision.compute and not (is_trained and precision.is_emulated):
        return nn.Identity()
    return to_compute(precision)


def full(x: Tensor) -> Tensor:
    """x in float32; inside graphs."""
    return x.astype(ms.float32)
