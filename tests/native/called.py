"""Calling the library's functions on numpy arrays."""

import mindspore  # noqa: F401  # its oneDNN
import numpy as np
import pytest

from mindrlhf_lite.native import build
from mindrlhf_lite.native.library import _FEATURES, call, features_of_this_cpu

F = np.float32
ISAS = [isa for isa in build.isas_of_this_machine() if _FEATURES.get(isa, set()) <= features_of_this_cpu()]
needs_compiler = pytest.mark.skipif(not ISAS or build.compiler() is None, reason="needs a C++ compiler")


def outputs_of(library, name, inputs, shapes, types=None, threads=1):
    library.native_set_up(threads, 0)
    outputs = [
        np.full(shape, np.nan, F) if t is F else np.zeros(shape, t) for shape, t in zip(shapes, types or [F] * 9)
    ]
    assert call(library, name, *inputs, *outputs) == 0
    return outputs


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(F)


def slope(function, x, direction, step=1e-3):
    """Of a scalar function of float64 arrays along a direction."""
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)
