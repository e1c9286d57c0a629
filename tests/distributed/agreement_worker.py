"""One of two tensor ranks that generate; rank 1's logits are changed after some tokens. Arguments: "same" or "other";
where tokens are drawn: "parts" of the vocabulary, each rank's own, or the whole of it in the "graph" or on the "host".
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindspore import Parameter, Tensor

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy, box_reader, buffers_of_rank, fill_buffers
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.rollout.agreement import RanksDisagree
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import initial_weights
from mindrlhf_lite.types import GenerateRequest, SamplingParams


class Shifted(Decoder):
    """Adds to its own logits, as a device would that computes wrongly."""

    def logits(self, hidden, head=None):
        return super().logits(hidden, head) + self.shift

    def own_logits(self, hidden, head=None):
        return super().own_logits(hidden, head) + self.shift[:, :48]


config, mesh = ModelConfig(96, 32, 48, 2, 4, 2, tie_word_embeddings=True), Mesh()
strategy = Strategy(ParallelDims(1, 2))
buffers = buffers_of_rank(config, strategy, mesh.rank)
weights = fill_buffers(buffers, box_reader(initial_weights(config, 0)))
model = Shifted(config, weights, False, 32, mesh.role(strategy.dims, 2), strategy)
model.shift = Parameter(Tensor(np.zeros((1, 96), np.float32)), name="shift", requires_grad=False)
engine = NativeEngine(model, 4, 32)
engine.filters_in_graph = sys.argv[2] == "graph"
requests = [GenerateRequest((1, 2, 3 + number), 2, (0, 0, number)) for number in range(3)]
sampling = SamplingParams(12, top_k=0 if sys.argv[2] == "parts" else 5)
said = ""


def change(request, sample, token):
    """After some tokens."""
    if sys.argv[1] == "other" and mesh.rank == 1 and request == 0:
        model.shift.asnumpy()[0, 7] = 30.0


try:
    tokens = [each.token_ids for group in engine.generate(requests, sampling, on_token=change) for each in group]
    assert all(other == tokens for other in gather_objects(mesh.world, tokens, list[tuple[int, ...]]))
except RanksDisagree as error:
    said = str(error)
both = gather_objects(mesh.world, said)  # nobody waits for the other
assert both[0] == both[1]
# where one token is drawn of all ranks' parts, a rank's mistake is all ranks'
assert ("drew different tokens (slots" in said) == (sys.argv[1] == "other" and sys.argv[2] != "parts"), said
