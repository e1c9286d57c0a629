"""Tensor ranks draw the same tokens, each by itself. One that computes other bits would go on with another text: its
keys and values would spoil all others' in silence, or it would stop sooner and leave the others waiting for good. So
every decoding step compares what the ranks have drawn, in the graph or on the host, before any of them acts on it, and
all of them end together, in words. Where ranks draw from parts of the vocabulary (split_draw.py), there is one token.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, jit, nn, ops

from mindrlhf_lite.parallel.collectives import MaxOverAxis
from mindrlhf_lite.parallel.compiled import CompiledCell
from mindrlhf_lite.parallel.mesh import Axis


class RanksDisagree(Exception):
    """Tensor ranks have drawn different tokens."""


class Agreement(nn.Cell):
    """Adds to a decoding step's results, where ranks share the model, how far apart theirs are."""

    def __init__(self, axis: Axis | None):
        super().__init__(auto_prefix=False)
        self.is_alone = axis is None
        self.largest = nn.Identity() if axis is None else MaxOverAxis(axis)

    def construct(self, results: tuple) -> tuple:
        """Args: results: (tokens [B], ...). Returns them and float32 [B], 0 where ranks agree."""
        if self.is_alone:
            return results
        told = results[0].astype(ms.float32)
        slots = told.shape[0]
        most = self.largest(ops.concat((told, -told)))
        return (*results, most[:slots] + most[slots:])


class DrawnOnHosts(CompiledCell):
    """Compares what each rank's host has drawn. Args: axis: the ranks; most: tokens at a time."""

    def __init__(self, axis: Axis | None, most: int):
        super().__init__()
        self.agreement, self.is_alone, self.most = Agreement(axis), axis is None, most

    @jit
    def construct(self, tokens: Tensor) -> Tensor:
        return self.agreement((tokens,))[1]

    def check(self, tokens: Sequence[int] | np.ndarray) -> None:
        """Raises:
        RanksDisagree: as `check_agreement`; every rank calls it, with as many tokens.
        """
        if not self.is_alone:
            told = np.zeros(self.most, np.int32)
            told[: len(tokens)] = tokens
            check_agreement(self(Tensor(told)).asnumpy())


def check_agreement(apart: np.ndarray) -> None:
    """Args: apart: of `Agreement`; every rank has the same.

    Raises:
        RanksDisagree: ranks have drawn different tokens.
    """
    if slots := np.flatnonzero(apart > 0).tolist():
        raise RanksDisagree(
            f"the tensor ranks of a rollout drew different tokens (slots {', '.join(map(str, slots[:8]))}): a device "
            "computes other bits than its neighbours, and the completions would be spoilt. Set context.deterministic "
            "to true; if it is, check the devices (bash tools/ascend_kit.sh)"
        )
