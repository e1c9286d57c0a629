"""What the classes of compiled graphs have in common."""

from __future__ import annotations

from mindspore import nn


class CompiledCell(nn.Cell):
    """A cell whose `construct` is a compiled graph of its own.

    MindSpore (2.9) tells every cell inside of it the name of the graph at every call, in Python: 3 ms where a model is
    inside. Nothing reads it there.
    """

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)

    @property
    def compile_phase(self) -> str:
        return self._compile_phase

    @compile_phase.setter
    def compile_phase(self, value: str) -> None:
        object.__setattr__(self, "_compile_phase", value)
