"""Weights from the rows that each data-parallel rank has updated, and from float32 masters."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, jit, ops

from mindrlhf_lite.models.precision import Precision, to_storage
from mindrlhf_lite.parallel.collectives import GatherRows, plan_buckets
from mindrlhf_lite.parallel.compiled import CompiledCell
from mindrlhf_lite.parallel.mesh import Axis


class GatherShards(CompiledCell):
    """Assembles weights from the rows that each data-parallel rank has updated, in buckets of the weights' type."""

    def __init__(self, weights: list[Parameter], shards: list[Parameter], axis: Axis | None, precision: Precision):
        super().__init__()
        self.weights, self.shards = ParameterTuple(weights), ParameterTuple(shards)
        self.sizes = tuple(int(np.prod(shard.shape)) for shard in shards)
        self.shapes = tuple(tuple(weight.shape) for weight in weights)
        self.buckets = tuple(plan_buckets(self.sizes))
        self.gather, self.to_storage = GatherRows(axis), to_storage(precision)

    @jit
    def construct(self) -> Tensor:
        for start, end in self.buckets:
            flat: tuple = ()
            for index in range(start, end):
                flat += (self.to_storage(self.shards[index]).reshape(1, -1),)
            gathered = self.gather(ops.concat(flat, 1))
            offset = 0
            for index in range(start, end):
                ops.assign(
                    self.weights[index], gathered[:, offset : offset + self.sizes[index]].reshape(self.shapes[index])
                )
                offset += self.sizes[index]
        return ops.zeros((1,), ms.float32)


class GatherWhole(CompiledCell):
    """All rows of a parameter from the data-parallel ranks' shares; for checkpoints."""

    def __init__(self, axis: Axis | None):
        super().__init__()
        self.gather = GatherRows(axis)

    @jit
    def construct(self, shard: Tensor) -> Tensor:
        return self.gather(shard)


class Round(CompiledCell):
    """What a model stores of a master."""

    def __init__(self, precision: Precision):
        super().__init__()
        self.to_storage = to_storage(precision)

    @jit
    def construct(self, master: Tensor) -> Tensor:
        return self.to_storage(master)
