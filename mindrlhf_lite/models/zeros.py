"""Memory of parameters that begin as zeros."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint


def zeros(shape: Sequence[int]) -> Tensor:
    """float32 zeros, made where they will lie: on a device the host's memory has no part in it."""
    if ms.get_context("device_target") == "CPU":
        return Tensor(np.zeros(tuple(shape), np.float32))
    return mint.zeros(tuple(shape), dtype=ms.float32)
