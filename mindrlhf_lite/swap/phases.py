"""Which groups of parameters each phase of a step has in memory; data only, so that a memory plan can be made without a
device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Access(Enum):
    """How a phase uses a group."""

    READS = "reads"
    CHANGES = "changes"
    FILLS = "fills"  # writes it from nothing
    READS_STORED = "reads stored"  # in the store, without bringing it in


@dataclass(frozen=True)
class Phase:
    """Groups by name. Example: Phase(needs=("actor",), fills=("rollout",)) is a reshard with both sides in memory."""

    needs: tuple[str, ...] = ()  # read only
    changes: tuple[str, ...] = ()  # needed, and written
    fills: tuple[str, ...] = ()  # written from nothing
    reads_stored: tuple[str, ...] = ()  # read in the store, without bringing them in

    @property
    def resident(self) -> tuple[str, ...]:
        return (*self.needs, *self.changes, *self.fills)


def phase_of(name: str, uses: Mapping[str, Mapping[str, Access]]) -> Phase:
    """The phase of that name. Args: uses: of every group, by phase.

    Example: phase_of("reshard", {"actor": {"reshard": Access.READS}, "rollout": {"reshard": Access.FILLS}})
    """

    def groups(access: Access) -> tuple[str, ...]:
        return tuple(group for group, of_phases in uses.items() if of_phases.get(name) is access)

    return Phase(*map(groups, (Access.READS, Access.CHANGES, Access.FILLS, Access.READS_STORED)))


def optimizer_part(index: int) -> str:
    """Name of a group: the optimizer's state in parts, which come in one after the other."""
    return f"optimizer_{index}"


def phase_of_part(name: str, index: int) -> str:
    """Name of a phase that has one part in memory. Args: name: "step" (its update), "save" or "restore"."""
    return f"{name}_{index}"
