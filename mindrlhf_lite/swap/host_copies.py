"""Parameters' contents between a device and the host's memory: few copies, large, none of which waits for another.

A bundle is one parameter, or small ones of one type that are copied together: on a device they are laid side by side
there, which is a hundred times as fast as the way to the host. Every bundle has host memory of its own, page-locked on
Ascend (MindSpore's `mint.empty(..., device="CPU", pin_memory=True)`): MindSpore 2.9 copies to a host tensor's beginning
only, and what begins later it would first move to the device (`InplaceCopyD2H` in its source).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint, ops

from mindrlhf_lite.parallel.mesh import is_simulated
from mindrlhf_lite.reshard.transports import is_on_host

BUNDLE_BYTES = 64 << 20  # 3 ms on the way to the host
MOST_UNDER_WAY = 2

_concat = ops.Concat(0)


def bundles_of(parameters: Sequence[Parameter], limit: int = BUNDLE_BYTES) -> list[tuple[Parameter, ...]]:
    """Those of one type together, in order, as many as `limit` bytes hold, or one."""
    by_type: dict[Any, list[list[Parameter]]] = {}
    for parameter in parameters:
        found = by_type.setdefault(parameter.dtype, [])
        if found and sum(each.nbytes for each in found[-1]) + parameter.nbytes <= limit:
            found[-1].append(parameter)
        else:
            found.append([parameter])
    return [tuple(bundle) for bundles in by_type.values() for bundle in bundles]


class HostCopies:
    """Copies between MindSpore's device and the host, of which at most two are under way. On CPU both sides are the
    host's; there its tests run. What Ascend alone does was not run here.
    """

    def __init__(self) -> None:
        self.under_way: deque[tuple[Callable[[], Any], Tensor]] = deque()  # what waits for it, and what it reads

    def allocate(self, shape: Sequence[int], dtype: ms.Type) -> Tensor:
        """Memory of the host."""
        if is_on_host() or is_simulated():  # which touches none of it
            return Tensor.from_numpy(np.empty(tuple(shape), ms.dtype_to_nptype(dtype)))
        return mint.empty(tuple(shape), dtype=dtype, device="CPU", pin_memory=True)

    def start(self, target: Tensor, source: Tensor) -> None:
        """Fills `target`, one of them the host's, of the same shape and type. It may be under way on return."""
        target.copy_(source, non_blocking=True)
        if is_on_host():
            wait: Callable[[], Any] = target.asnumpy
        else:
            event = ms.runtime.Event()
            event.record()
            wait = event.synchronize
        self.under_way.append((wait, source))
        self._wait_until(MOST_UNDER_WAY)

    def finish(self) -> None:
        """Waits for all."""
        self._wait_until(0)

    def _wait_until(self, most: int) -> None:
        while len(self.under_way) > most:
            wait, _ = self.under_way.popleft()
            wait()


@dataclass(frozen=True)
class Bundle:
    """Parameters that are copied together. `host`: of a single one's shape, else flat, one after the other."""

    parameters: tuple[Parameter, ...]
    host: Tensor

    @classmethod
    def of(cls, parameters: tuple[Parameter, ...], copies: HostCopies) -> Bundle:
        single = len(parameters) == 1
        shape = parameters[0].shape if single else (sum(each.size for each in parameters),)
        return cls(parameters, copies.allocate(shape, parameters[0].dtype))

    def save(self, copies: HostCopies) -> None:
        if len(self.parameters) == 1:
            copies.start(self.host, self.parameters[0])
        else:
            copies.start(self.host, _concat([each.reshape(-1) for each in self.parameters]))

    def load(self, copies: HostCopies) -> None:
        """Into parameters that have memory."""
        if len(self.parameters) == 1:
            copies.start(self.parameters[0], self.host)
            return
        staged, start = mint.empty(self.host.shape, dtype=self.host.dtype), 0
        copies.start(staged, self.host)
        for each in self.parameters:
            part = staged[start : start + each.size].reshape(each.shape)
            start += each.size
            if is_on_host():  # where `copy_` takes no part of a tensor
                each.asnumpy()[...] = part.asnumpy()
            else:
                each.copy_(part)

    def contents(self, index: int) -> np.ndarray:
        """What was saved of one of the parameters; a view of the host's memory."""
        start = sum(each.size for each in self.parameters[:index])
        own = self.parameters[index]
        return self.host.asnumpy().reshape(-1)[start : start + own.size].reshape(own.shape)
