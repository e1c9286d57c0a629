"""Tensor ranks draw the same tokens, each by itself. One that computes other bits would go on with another text: its
keys and values would spoil all others' in silence, or it would stop sooner and leave the others waiting for good. So
every decoding step compares what the ranks have drawn, and all of them end together, in words. Where the host draws
(filters, penalties), the largest logit of each row is compared instead: a rank whose others differ is not noticed.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindrlhf_lite.parallel.collectives import MaxOverAxis
from mindrlhf_lite.parallel.mesh import Axis


class RanksDisagree(Exception):
    """Tensor ranks have drawn different tokens."""


class Agreement(nn.Cell):
    """Adds to a decoding step's results, where ranks share the model, how far apart theirs are."""

    def __init__(self, axis: Axis | None):
        super().__init__(auto_prefix=False)
        self.is_alone = axis is None
        self.largest = nn.Identity() if axis is None else MaxOverAxis(axis)
        self.of_row = ops.ReduceMax()

    def construct(self, results: tuple) -> tuple:
        """Args: results: (tokens [B] or logits [B, V], ...). Returns them and float32 [B], 0 where ranks agree."""
        if self.is_alone:
            return results
        told = results[0].astype(ms.float32)
        if results[0].ndim == 2:
            told = self.of_row(told, 1)
        slots = told.shape[0]
        most = self.largest(ops.concat((told, -told)))
        return (*results, most[:slots] + most[slots:])


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
