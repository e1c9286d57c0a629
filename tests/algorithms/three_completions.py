"""A function of the tokens of three completions, eager and as a graph."""

import numpy as np
from mindspore import Tensor, jit, mutable


def both_modes(function, *arguments):
    """What `function` returns of numpy arrays and dictionaries of tensors; equal in PyNative and in a graph."""

    @jit
    def compiled(*tensors):
        return function(*tensors)

    tensors = [mutable(each) if isinstance(each, dict) else Tensor(np.array(each, np.float32)) for each in arguments]
    eager, graph = function(*tensors).asnumpy(), compiled(*tensors).asnumpy()
    np.testing.assert_allclose(eager, graph, rtol=1e-6)
    return graph
