"""One of three tensor ranks that draw from parts of a vocabulary, against the draw from the whole of it."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindspore import Tensor, jit

from mindrlhf_lite.models.packed_attention import MASKED
from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.rollout.graph_draw import Drawing, WholeDraw
from mindrlhf_lite.rollout.split_draw import SplitDraw

SLOTS, VOCABULARY, ROWS = 64, 1000, 334  # two rows of the last rank's lie beyond
mesh = Mesh()
axis = mesh.role(ParallelDims(1, 3), 1).tensor
rng = np.random.default_rng(0)
stop_bias = np.zeros(VOCABULARY, np.float32)
stop_bias[[5, 700]] = MASKED

for drawing in (
    Drawing(True),
    Drawing(True, is_scaled=True),
    Drawing(True, is_scaled=True, reports_scaled_policy=True, forbids_stops=True),
    Drawing(True, is_greedy=True, forbids_stops=True),
):
    split, whole = SplitDraw(axis, ROWS, stop_bias, drawing), WholeDraw(None, stop_bias, drawing)
    draw_split, draw_whole = jit(split.construct), jit(whole.construct)
    for spread in (0.3, 4.0):
        logits = (rng.standard_normal((SLOTS, VOCABULARY)) * spread).astype(np.float32)
        logits[3, 600:] = logits[4, :500] = MASKED  # nothing on one rank
        logits[5, 7] = logits[5, 900] = 20.0  # equal ones on two ranks
        uniform = np.concatenate([[0.0, 1.0 - 2.0**-23], rng.random(SLOTS - 2)]).astype(np.float32)
        uniform = np.floor(uniform * 2**23) / 2**23
        rest = (uniform.astype(np.float32), (np.arange(SLOTS) % 2).astype(np.float32), np.array([0.7], np.float32))
        tensors = [Tensor(each) for each in rest]
        beyond = np.zeros((SLOTS, 3 * ROWS - VOCABULARY), np.float32)  # as zero weights give
        own = np.concatenate([logits, beyond], 1)[:, mesh.rank * ROWS : (mesh.rank + 1) * ROWS]
        found = [each.asnumpy() for each in draw_split(Tensor(own.copy()), *tensors)]
        wanted = [each.asnumpy() for each in draw_whole(Tensor(logits), *tensors)]
        np.testing.assert_array_equal(found[0], wanted[0])
        for ours, theirs in zip(found[1:], wanted[1:], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)
        everyone = gather_objects(mesh.world, [each.tolist() for each in found], list[list[float]])
        assert all(other == everyone[0] for other in everyone)
