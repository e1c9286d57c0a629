"""Devices as published, and what is assumed of them where nothing is: nothing here was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """`flops`, `memory_bytes_per_s` and `memory_gib` are public figures; the others are assumptions, which
    tools/ascend_kit.sh measures.
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


# 910B as its 64 GiB parts are published: 313 TFLOPS in float16 and bfloat16 (910B3, the least of them), 1.6 TB/s;
# 56 GB/s both ways a link between two devices of a host, 200 Gbit/s a device between hosts
DEVICES = {"910B": Device("910B", 64.0, 313e12, 1.6e12, 25e9)}
