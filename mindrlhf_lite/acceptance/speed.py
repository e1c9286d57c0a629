"""What a device does a second, of the kinds that the estimate of a step is made of (mindrlhf_lite/estimate)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mindrlhf_lite.estimate.devices import DEVICES, Device

_SIZES = (512, 2048, 8192)  # of matrix products
_SMALL = {"CPU": 16, "Ascend": 1}  # by which sizes and times are divided
_REPEATED = 200

# figures by name, and what the estimate takes them to be
LAUNCH, SLOW_LAUNCH = "us an aclnn kernel", "us an aclop kernel"
TO_HOST, FROM_HOST = "GB/s to the host, pageable", "GB/s from the host, pageable"
TO_LOCKED, FROM_LOCKED = "GB/s to the host, page-locked", "GB/s from the host, page-locked"
PRODUCT, READING = "share of the published FLOPS, products of {}", "GB/s of memory, copied"


def expected(device: Device) -> dict[str, float]:
    """What the estimate assumes. Its launches are aclnn's."""
    found = {
        LAUNCH: device.launch_s * 1e6,
        TO_HOST: device.pageable_bytes_per_s / 1e9,
        FROM_HOST: device.pageable_bytes_per_s / 1e9,
        TO_LOCKED: device.host_bytes_per_s / 1e9,
        FROM_LOCKED: device.host_bytes_per_s / 1e9,
        READING: device.memory_bytes_per_s * device.memory_efficiency / 1e9,
    }
    return found | {PRODUCT.format(_SIZES[-1]): device.product_efficiency}


def measure(published_flops: float) -> dict[str, Any]:
    """On MindSpore's current device."""
    import mindspore as ms
    from mindspore import Tensor, mint, ops

    device = str(ms.get_context("device_target"))
    small = _SMALL[device]
    dtype = ms.bfloat16 if device == "Ascend" else ms.float32

    def seconds(work: Callable[[], Tensor], times: int) -> float:
        work().asnumpy()
        start = time.perf_counter()
        for _ in range(times):
            result = work()
        _wait(result)
        return (time.perf_counter() - start) / times

    tiny, places = Tensor(np.ones((8, 16), np.float32)), Tensor(np.arange(8, dtype=np.int32))
    found: dict[str, Any] = {
        LAUNCH: 1e6 * seconds(lambda: mint.add(tiny, tiny), _REPEATED),
        SLOW_LAUNCH: 1e6 * seconds(lambda: ops.gather(tiny, places, 0), _REPEATED),
    }
    for size in _SIZES:
        square = Tensor(np.ones((size // small, size // small), np.float32)).astype(dtype)
        product = ops.MatMul(transpose_b=True)
        taken = seconds(lambda: product(square, square), max(2, 20 // small))  # noqa: B023
        found[PRODUCT.format(size)] = 2 * (size // small) ** 3 / taken / published_flops
    large = np.ones(((256 << 20) // 4 // small,), np.float32)
    on_device = Tensor(large)
    found[READING] = 2 * large.nbytes / seconds(lambda: on_device + 1.0, 5) / 1e9
    start = time.perf_counter()
    copied = [Tensor(large).move_to(device) if device != "CPU" else Tensor(large.copy()) for _ in range(3)]
    _wait(copied[-1])
    found[FROM_HOST] = 3 * large.nbytes / (time.perf_counter() - start) / 1e9
    start = time.perf_counter()
    for each in copied:
        each.asnumpy()
    found[TO_HOST] = 3 * large.nbytes / (time.perf_counter() - start) / 1e9
    found |= _locked(on_device)
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _locked(on_device: Any) -> dict[str, float]:
    """By the copies that swapping makes (on CPU, where nothing is locked, of memory)."""
    from mindrlhf_lite.swap.host_copies import MOST_UNDER_WAY, HostCopies

    copies, found = HostCopies(), {}
    hosts = [copies.allocate(on_device.shape, on_device.dtype) for _ in range(MOST_UNDER_WAY)]
    for name, pairs in (
        (TO_LOCKED, [(host, on_device) for host in hosts]),
        (FROM_LOCKED, [(on_device, host) for host in hosts]),
    ):
        for turn in range(2):  # the second time pages are there
            start = time.perf_counter()
            for target, source in pairs:
                copies.start(target, source)
            copies.finish()
            if turn:
                found[name] = len(pairs) * on_device.nbytes / (time.perf_counter() - start) / 1e9
    return found


def speed_of_device(device: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A check of the kit: there are no arrays to compare."""
    return {}, measure(DEVICES["910B"].flops)


def _wait(result: Any) -> None:
    import mindspore as ms

    if ms.get_context("device_target") == "CPU":
        result.asnumpy()
    else:
        ms.runtime.synchronize()
