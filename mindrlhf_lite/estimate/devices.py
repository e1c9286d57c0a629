"""Devices: as published, as assumed where nothing is, or as tools/calibrate.py measured them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.strict_yaml import read_yaml_file
from mindrlhf_lite.files.text_file import write_text

if TYPE_CHECKING:
    from mindrlhf_lite.estimate.work import Work


@dataclass(frozen=True)
class Device:
    """Of a device whose figures are published, `flops`, `memory_bytes_per_s` and `memory_gib` are those; the others are
    assumptions, which tools/ascend_kit.sh measures.
    """

    name: str
    memory_gib: float
    flops: float  # of matrix products in two-byte types, a second
    memory_bytes_per_s: float
    link_bytes_per_s: float  # from one other device of the host, or of another host
    product_efficiency: float = 0.45  # of `flops`, for large matrix products with what lies between them
    memory_efficiency: float = 0.7
    host_bytes_per_s: float = 20e9  # to and from the host's page-locked memory
    launch_s: float = 16e-6  # a kernel after the other, from the host
    message_s: float = 100e-6  # a collective that is started outside of a graph
    collective_s: float = 20e-6  # one within a graph, besides its bytes
    call_s: float = 0.3e-3  # of a compiled graph, from Python
    token_s: float = 0.3e-3  # what the host does between two decoding steps
    pageable_bytes_per_s: float = 3.4e9  # to and from other memory of the host's; nothing is copied so
    half_rows: float = 126.0  # of a product at half of its efficiency: reading its weights takes as long as computing
    overlaps: bool = True  # kernels are started while others compute; on a CPU one after the other
    factors: Mapping[str, float] = field(default_factory=dict)  # measured over estimated seconds, by phase

    def seconds_of(self, phase: str, work: Work) -> float:
        return work.seconds(self) * self.factors.get(phase, 1.0)


# 910B as its 64 GiB parts are published: 313 TFLOPS in float16 and bfloat16 (910B3, the least of them), 1.6 TB/s;
# 56 GB/s both ways a link between two devices of a host, 200 Gbit/s a device between hosts
DEVICES = {"910B": Device("910B", 64.0, 313e12, 1.6e12, 25e9)}
# one thread of a CPU of a laptop or a cloud host; tools/calibrate.py measures one
CPU = Device(
    "a CPU",
    0.0,
    60e9,
    8e9,
    1.5e9,
    1.0,
    1.0,
    2e9,
    launch_s=20e-6,
    message_s=300e-6,
    collective_s=150e-6,
    call_s=150e-6,
    token_s=300e-6,
    half_rows=15.0,  # 60 GFLOP/s and 8 GB/s, in numbers of four bytes
    overlaps=False,
)


def of_rank(thread: Device, num_ranks: int, threads: int, cores: int) -> Device:
    """Of several ranks on one host, each with so many threads, what a rank has. Args: thread: of one that is alone."""
    share = min(float(threads), cores / num_ranks)
    return dataclasses.replace(thread, flops=thread.flops * share)


def known_device(device_target: str) -> Device:
    """Where nothing was measured."""
    return CPU if device_target == "CPU" else DEVICES["910B"]


def read_device(path: str) -> Device:
    """A table that `write_device` wrote. Raises UserError."""
    try:
        values = read_yaml_file(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    fields = {each.name: each for each in dataclasses.fields(Device)}
    needed = {name for name, each in fields.items() if each.default is each.default_factory}  # both are missing
    if not isinstance(values, dict) or not needed <= set(values):
        raise UserError(f"{path}: not a table of tools/calibrate.py")
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"{path}: {key}: unknown; known are {', '.join(fields)}")
        if not _is_usable(key, value):
            raise UserError(f"{path}: {key}={value!r}: not such a figure as tools/calibrate.py writes")
    if not values.get("overlaps", True):
        values.setdefault("half_rows", CPU.half_rows)  # older tables do not have it
    return Device(**values)


def _is_usable(key: str, value: object) -> bool:
    if key == "name":
        return isinstance(value, str) and bool(value)
    if key == "overlaps":
        return isinstance(value, bool)
    if key == "factors":
        return isinstance(value, dict) and all(isinstance(name, str) and _is_rate(each) for name, each in value.items())
    may_be_zero = key == "memory_gib" or (key.endswith("_s") and not key.endswith("_per_s"))
    return _is_rate(value) or (may_be_zero and value == 0 and not isinstance(value, bool))


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def write_device(path: str, device: Device) -> None:
    write_text(path, yaml.safe_dump(dataclasses.asdict(device), sort_keys=False))
