"""Attention for training, its gradient, and attention for decoding, in the dry run: what they copy is in the log."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mindspore as ms
from mindspore import Tensor, jit, mutable, nn, ops

from mindrlhf_lite.models.flash_attention import flash_spans
from mindrlhf_lite.models.kernels import FUSED_KERNELS
from mindrlhf_lite.models.precision import Precision

ms.set_context(device_target="Ascend", mode=ms.GRAPH_MODE)
PRECISION, SLOTS = Precision("bfloat16", "bfloat16", has_fused_kernels=True), 8


class ForTraining(nn.Cell):
    def __init__(self):
        super().__init__(auto_prefix=False)
        kinds = (FUSED_KERNELS.packed_attention, FUSED_KERNELS.known_attention)
        self.unknown, self.known = (kind(PRECISION, 4) for kind in kinds)

    def construct(self, stream, spans):
        return self.known(*stream, *spans, *self.unknown(*stream, *spans))[0]


class Attentions(nn.Cell):
    def __init__(self):
        super().__init__(auto_prefix=False)
        self.training, self.gradient = ForTraining(), ops.GradOperation(get_all=True)
        self.decode = FUSED_KERNELS.decode_attention(PRECISION, 4, 2)

    @jit
    def construct(self, stream, spans, slots, lengths):
        gradients = self.gradient(self.training)(stream, spans)
        return self.training(stream, spans), gradients[0], self.decode(*slots, slots[0], lengths)


def made_up(*shape):
    return Tensor(np.ones(shape, np.float32)).astype(ms.bfloat16)


segments = np.repeat(np.arange(4), 16).astype(np.int32)
spans = mutable(tuple(map(Tensor, flash_spans(segments, np.zeros(64, np.int32), slice(0, 64)))))
stream = mutable((made_up(64, 4, 64), made_up(64, 2, 64), made_up(64, 2, 64)))
slots = mutable((made_up(SLOTS, 4, 1, 64), made_up(SLOTS, 2, 32, 64), made_up(SLOTS, 2, 32, 64)))
attentions = Attentions()
for turn in range(2):
    attentions(stream, spans, slots, Tensor(np.arange(1, 1 + SLOTS) + turn))
    ms.runtime.synchronize()
