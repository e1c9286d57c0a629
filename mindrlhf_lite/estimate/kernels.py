"""How many kernels the graphs of a step start, by kind of device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kernels:
    """Of a graph, views left out; `_layer`: of one layer; `_chunk`: of a chunk of logits."""

    decode_layer: float
    decode_ends: float
    prefill_layer: float
    layer_forward: float
    layer_backward: float
    attention: float  # what `select_recompute` computes again of a layer
    head_chunk: float
    loss_chunk: float
    adapted_forward: float  # more of a linear with an adapter: two products, casts, scale, sum
    adapted_backward: float
    piece: float  # of a reshard: cut, packed, written
    parameter: float  # an update of one: AdamW with its rounded copy


# as the dry run lists them (tests/ascend_dry/kernels_0_5b.json)
ASCEND = Kernels(24, 58, 28, 25, 70, 6, 13, 60, 46 / 7, 66 / 7, 3, 12)
# native operators (models/native_layer.py, rollout/native.py); a piece is copied by numpy
CPU = Kernels(2, 8, 5, 5, 9, 1, 2, 4, 3, 4, 3, 1)


def kernels_of(device_target: str) -> Kernels:
    return CPU if device_target == "CPU" else ASCEND
