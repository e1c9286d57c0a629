"""Drawing in the graph: where a running sum passes a number, also where rounding lets the sum fall."""

import numpy as np
from mindspore import Tensor, jit

from mindrlhf_lite.rollout.running_sums import first_beyond

graph = jit(first_beyond)


def places(parts, sums, wanted):
    tensors = (Tensor(np.asarray(x, np.float32)) for x in (sums, np.reshape(wanted, (-1, 1)), parts))
    return graph(*tensors).asnumpy().reshape(-1).tolist()


def test_a_sum_that_falls_chooses_no_masked_token():
    # the second token is masked; the sum passes 0.5 before it and falls below at it
    parts = [[0.5, 0.0, 0.5]] * 4
    sums = [[0.5000001, 0.4999999, 1.0]] * 4
    assert places(parts, sums, [0.5, 0.4, 0.7, 0.0]) == [0, 0, 2, 0]


def test_beyond_the_whole_sum_it_is_the_last_token_with_a_probability():
    assert places([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0]], [[0.25, 0.99, 0.99], [0.0, 0.98, 0.98]], [0.995, 0.99]) == [
        1,
        1,
    ]


def test_it_is_numpys_searchsorted_where_sums_rise():
    rng = np.random.default_rng(0)
    parts = rng.random((64, 100)) * (rng.random((64, 100)) < 0.5)
    sums = np.cumsum(parts, 1).astype(np.float32)
    wanted = (rng.random(64) * 0.999 * sums[:, -1]).astype(np.float32)
    assert places(parts, sums, wanted) == [int(np.searchsorted(row, x, "right")) for row, x in zip(sums, wanted)]
