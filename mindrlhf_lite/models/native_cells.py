"""The CPU's own operators in the places that models/kernels.py names."""

from __future__ import annotations

from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.native import operators


class NativeProduct(operators.Product):
    """x weight^T."""

    def __init__(self, precision: Precision, is_trained: bool):
        super().__init__()


class NativeNorm(operators.Norm):
    """x / rms(x) * weight."""

    def __init__(self, precision: Precision, eps: float):
        super().__init__(eps)


class NativeGate(operators.Gate):
    """silu(gate) * up."""

    def __init__(self, precision: Precision):
        super().__init__()
