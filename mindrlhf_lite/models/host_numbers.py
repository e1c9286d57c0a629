"""Numbers that an Ascend kernel reads on the host before it is started, such as lengths of attention.

As a graph's input they are one tensor, which MindSpore leaves on the host as long as nothing on the device uses it. As
a tuple of numbers it would copy every other one of them to the device and back at each call, and wait for it; as a
tensor for the kernel itself, the tensor, at every kernel (MindSpore 2.9; `copy_from` in the dry run's log).
"""

from __future__ import annotations

from mindspore import Tensor, nn
from mindspore.ops.operations._sequence_ops import TensorToTuple


class HostNumbers(nn.Cell):
    """An integer tensor [N] -> a tuple of N numbers."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.to_tuple = TensorToTuple()

    def construct(self, numbers: Tensor) -> tuple:
        return self.to_tuple(numbers)
