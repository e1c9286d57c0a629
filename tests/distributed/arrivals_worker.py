"""One of two ranks; rank 0 comes late: to a gathering, as a sender, as a receiver. Argument: by how many seconds."""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindspore import Tensor

from mindrlhf_lite.parallel.collectives import transfer
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects

mesh, seconds = Mesh(), float(sys.argv[1])
for sender in (0, 1):
    if mesh.is_main:
        time.sleep(seconds)
    started = time.monotonic()
    assert gather_objects(mesh.world, mesh.rank) == [0, 1]
    assert mesh.is_main or time.monotonic() - started > seconds / 2
    if mesh.is_main:
        time.sleep(seconds)
    started = time.monotonic()
    for number in range(3):
        x = Tensor(np.full(4, mesh.rank + 10 * number, np.float32))
        transfer(x, mesh.world, sender)
        assert (x.asnumpy() == sender + 10 * number).all()
    waited = time.monotonic() - started
    assert mesh.is_main or (waited > seconds / 2) == (sender == 0), waited  # a sender waits for nobody
