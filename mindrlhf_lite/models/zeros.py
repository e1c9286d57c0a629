"""Memory of parameters that begin as zeros."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint


def zeros(shape: Sequence[int], dtype: ms.Type = ms.float32, on_host: bool = False) -> Tensor:
    """Zeros, made where they will lie: on a device the host's memory has no part in it. Args: on_host: they go to the
    device when they are first used there.
    """
    if on_host or ms.get_context("device_target") == "CPU":
        return Tensor(np.zeros(tuple(shape), ms.dtype_to_nptype(dtype)))
    return mint.zeros(tuple(shape), dtype=dtype)
