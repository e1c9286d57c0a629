"""Numbers as they lie in files of tensors. Values are float32 on this side; bfloat16 and float16 survive reading and
writing bit for bit.
"""

from __future__ import annotations

import numpy as np

from mindrlhf_lite.errors import UserError

STORED = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "BF16": np.uint16}
DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}  # what the tools write


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """uint16 bfloat16 bit patterns -> float32 of the same shape: bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 -> uint16 bit patterns of the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), ((bits >> 16) | 0x0040).astype(np.uint16), rounded)


def stored(values: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """float32 values as they lie in a file of `dtype`.

    Raises:
        ValueError: a finite value has no float16.
    """
    if dtype == "BF16":
        return narrow_bfloat16(values)
    with np.errstate(over="ignore"):
        result = values.astype(STORED[dtype])
    if dtype == "F16" and np.isinf(result).any() and not np.isinf(values).any():
        raise UserError(f"{name}: {float(np.abs(values).max()):g} is too large for fp16; take bf16 or fp32")
    return result
