"""What a thread of this host's CPU does a second, and how runs that were measured differ from their estimates."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.config.dotted import by_dotted_key
from mindrlhf_lite.config.load import collect
from mindrlhf_lite.config.model_file import shape_of_actor
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.estimate.devices import CPU, Device, of_rank
from mindrlhf_lite.estimate.step import work_of_step
from mindrlhf_lite.files.text_file import read_text
from mindrlhf_lite.observe.run_files import read_metrics

_WARM_STEPS = 2  # of a run, which compile
_REPEATED, _CHAINED = 50, 40
_LARGE = 4 << 20  # numbers
_FEW_ROWS = 32  # of a product


def measure(mesh: Any) -> Device:
    """Of one of this job's ranks while the others do the same. Args: mesh: of the job, each rank with one thread."""
    from mindspore import ops

    from mindrlhf_lite.native.library import library, product_gflops, set_up

    products = {}
    if library().path:
        set_up(num_threads=1)
        products = _of_products(product_gflops() * 1e9, product_gflops(_FEW_ROWS) * 1e9)
    large, target = np.ones(_LARGE, np.float32), np.empty(_LARGE, np.float32)
    copied = _seconds(lambda: np.copyto(target, large), 5)
    one, many = (_seconds(_chain(count, ops.tanh), _REPEATED) for count in (1, 1 + _CHAINED))
    launch = max(1e-7, (many - one) / _CHAINED)
    figures = {
        "name": "this CPU",
        **products,
        "memory_bytes_per_s": 2 * large.nbytes / copied,
        "host_bytes_per_s": large.nbytes / copied,
        "launch_s": launch,
        "call_s": max(1e-7, one - launch),
        **_links(mesh),
    }
    return dataclasses.replace(CPU, **{key: _rounded(value) for key, value in figures.items()})


def _of_products(many: float, few: float) -> dict[str, float]:
    """Args: many, few: operations a second, of a product of many rows, and of one of `_FEW_ROWS`."""
    return {"flops": many, "half_rows": max(1.0, _FEW_ROWS * (many / few - 1))}


def _rounded(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _seconds(call: Callable[[], Any], times: int, before: Callable[[], None] = lambda: None) -> float:
    """The least, after one that compiles: what disturbed it is no figure of the host. Args: before: each, not timed."""
    found = []
    for _ in range(times + 1):
        before()
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found[1:])


def _chain(count: int, operator: Callable[[Any], Any]) -> Callable[[], Any]:
    """A call of a compiled graph of so many small operators, one after the other."""
    from mindspore import Tensor, jit

    def chained(x: Tensor) -> Tensor:
        for _ in range(count):
            x = operator(x)
        return x

    compiled, given = jit(chained), Tensor(np.ones((8, 16), np.float32))
    return lambda: compiled(given).asnumpy()


def _links(mesh: Any) -> dict[str, float]:
    """Between two ranks, or what is assumed where there is one."""
    if mesh.world is None:
        return {}
    from mindspore import Tensor, ops

    reduce, meet = ops.AllReduce(group=mesh.world.group), mesh.world.meet
    small, large = (Tensor(np.ones(count, np.float32)) for count in (16, _LARGE))
    alone = _seconds(lambda: reduce(small).asnumpy(), _REPEATED, meet)
    one, many = (_seconds(_chain(count, reduce), _REPEATED, meet) for count in (1, 1 + _CHAINED))
    taken = _seconds(lambda: reduce(large).asnumpy(), 5, meet) - alone
    share = 2 * (mesh.world.size - 1) / mesh.world.size  # of its numbers, what a rank sends
    return {
        "message_s": alone,
        "collective_s": max(1e-6, (many - one) / _CHAINED),
        "link_bytes_per_s": share * 4 * _LARGE / taken,
    }


def with_factors(device: Device, folders: list[Path]) -> Device:
    """The device with, by phase, the median of measured over estimated seconds of runs on it.

    Args: device: of a thread of it; folders: rl_config.output_dir of finished runs.

    Raises:
        UserError: a folder without a run on this kind of device, or one that has not gone on for three steps.
    """
    ratios: dict[str, list[float]] = {}
    plain = dataclasses.replace(device, factors={})
    for folder in folders:
        for phase, (measured, estimated) in phases_of_run(folder, plain).items():
            ratios.setdefault(phase, []).append(measured / estimated)
    return dataclasses.replace(
        device, factors={phase: _rounded(statistics.median(each)) for phase, each in ratios.items()}
    )


def _threads(summary: dict[str, Any]) -> int:
    """Of a rank of the run; 0: it does not say."""
    found = re.search(r"(\d+) thread", str(summary.get("kernels", "")))
    return int(found[1]) if found else 0


def timed_rows(folder: Path) -> list[dict[str, Any]]:
    """Metrics of a run's steps but for those that compile. Raises UserError where there are none."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "time_s/step" in row][_WARM_STEPS:]
    if not rows:
        raise UserError(f"{folder}: fewer than three steps")
    return rows


def phases_of_run(folder: Path, device: Device) -> dict[str, tuple[float, float]]:
    """(measured, estimated seconds) by phase of a step of a finished run. Args: device: of a CPU one thread's."""
    try:
        summary = json.loads(read_text(folder / "summary.json"))
        settings, ranks = summary["config"], summary["world_size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not the folder of a finished run ({error})") from None
    config, problems = collect(by_dotted_key(settings))
    if problems:
        raise UserError(f"{folder}: {problems[0]}")
    rows = timed_rows(folder)
    on_cpu = config.context.device_target == "CPU"
    if on_cpu == device.overlaps:
        raise UserError(
            f"{folder}: its context.device_target is {config.context.device_target}, not that of {device.name}"
        )
    if on_cpu:
        cores = len(os.sched_getaffinity(0))
        device = of_rank(device, ranks, _threads(summary) or max(1, cores // ranks), cores)
    work = work_of_step(config, shape_of_actor(config), ranks)
    found = {}
    for phase, each in work.items():
        key = f"time_s/{phase}"
        estimated = device.seconds_of(phase, each)
        if all(key in row for row in rows) and estimated > 0:
            found[phase] = (max(1e-6, statistics.median(row[key] for row in rows)), estimated)
    return found
