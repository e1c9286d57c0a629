"""Which weights each phase of a training step has in memory; data only, so that a memory plan can be made without a
device.
"""

from __future__ import annotations

from dataclasses import dataclass


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


def optimizer_part(index: int) -> str:
    """Name of a group: the optimizer's state in parts, which come in one after the other."""
    return f"optimizer_{index}"


def phase_of_part(name: str, index: int) -> str:
    """Name of a phase that has one part in memory. Args: name: "step" (its update), "save" or "restore"."""
    return f"{name}_{index}"


def phases(
    reshard_mem_opt_level: int,
    reference_moves: bool = False,
    optimizer_parts: int = 0,
    engine_copies_weights: bool = False,
) -> dict[str, Phase]:
    """Which weights each phase of a step has in memory.

    Args: reference_moves: whether the reference follows the actor, and so is part of a checkpoint; optimizer_parts: 0:
        the optimizer's state is in memory for the whole update; else in so many parts, after the backward passes;
        engine_copies_weights: whether the engine generates with a copy of the rollout weights.
    """
    filled = ("rollout", "engine_weights") if engine_copies_weights else ("rollout",)
    models = ("actor", "reference") if reference_moves else ("actor",)
    saved = models if optimizer_parts else (*models, "optimizer")
    sync = {"sync_reference": Phase(needs=("actor",), changes=("reference",))} if reference_moves else {}
    reshard = (
        Phase(needs=("actor",), fills=filled)
        if reshard_mem_opt_level == 0
        else Phase(reads_stored=("actor",), fills=filled)
    )
    update = {"update": Phase(changes=("actor", "optimizer", "gradients"))}
    if optimizer_parts:
        update = {"update": Phase(needs=("actor",), changes=("gradients",))}
        for index in range(optimizer_parts):
            part = optimizer_part(index)
            update[phase_of_part("step", index)] = Phase(changes=("actor", "gradients", part))
            update[phase_of_part("save", index)] = Phase(needs=("actor", part))
            update[phase_of_part("restore", index)] = Phase(changes=("actor", part))
    return {
        "generate": Phase(needs=filled[-1:], fills=("kv_cache",)),
        "reference": Phase(needs=("reference",)),
        "policy": Phase(needs=("actor",)),
        **update,
        "reshard": reshard,
        **sync,
        "save": Phase(needs=saved),
        "restore": Phase(changes=saved),
    }
