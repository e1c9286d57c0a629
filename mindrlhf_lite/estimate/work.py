"""What a phase does, and what that takes on a device."""

from __future__ import annotations

from dataclasses import dataclass

from mindrlhf_lite.estimate.devices import Device


@dataclass(frozen=True)
class Work:
    """On the busiest rank. Kernels are started one after the other, and a device computes or reads meanwhile: the
    longest of the three counts; on a CPU starting comes on top. Messages and the host's copies come on top.

    Example: Work(launches=770).seconds(DEVICES["910B"]) == 0.01232
    """

    flops: float = 0.0
    row_flops: float = 0.0  # of one row of each product: the fewer rows there are, the more of the time this is
    memory_bytes: float = 0.0
    launches: float = 0.0
    calls: float = 0.0  # of compiled graphs
    collectives: float = 0.0  # within graphs
    messages: float = 0.0  # outside
    sent_bytes: float = 0.0  # over links
    host_bytes: float = 0.0
    tokens: float = 0.0  # steps of decoding

    def times(self, count: float) -> Work:
        return Work(**{name: value * count for name, value in vars(self).items()})

    def plus(self, other: Work) -> Work:
        return Work(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def seconds(self, device: Device) -> float:
        computing = (self.flops + device.half_rows * self.row_flops) / (device.flops * device.product_efficiency)
        reading = self.memory_bytes / (device.memory_bytes_per_s * device.memory_efficiency)
        starting = self.launches * device.launch_s + self.calls * device.call_s
        passing = (
            self.collectives * device.collective_s
            + self.messages * device.message_s
            + self.sent_bytes / device.link_bytes_per_s
        )
        return (
            (max(computing, reading, starting) if device.overlaps else max(computing, reading) + starting)
            + passing
            + self.host_bytes / device.host_bytes_per_s
            + self.tokens * device.token_s
        )
