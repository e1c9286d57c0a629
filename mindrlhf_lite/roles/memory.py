"""What moves weights: between memory and a store, and between the layouts of two roles."""

from __future__ import annotations

from pathlib import Path

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.reshard.transports import (
    CollectiveTransport,
    SharedMemoryTransport,
    Transport,
    is_shared_memory_allowed,
)
from mindrlhf_lite.swap.residency import Residency
from mindrlhf_lite.swap.stores import FileStore, HostStore


def make_residency(config: Config) -> Residency:
    """The residency manager of this rank, with a store if the configuration swaps."""
    rl, store = config.rl_config, None
    if rl.swap:
        is_file = rl.swap_store == "file" or (rl.swap_store == "auto" and config.context.device_target == "CPU")
        store = FileStore(Path(rl.swap_dir or f"{rl.output_dir}/swap")) if is_file else HostStore()
    return Residency({}, store)


def make_transport(config: Config, mesh: Mesh) -> Transport:
    """The transport that `reshard_transport` names; "auto" takes shared memory where all ranks are on this CPU host and
    may read each other.
    """
    wanted = config.rl_config.reshard_transport
    if wanted == "auto":
        works = gather_objects(
            mesh.world, (mesh.host, config.context.device_target == "CPU" and is_shared_memory_allowed())
        )
        wanted = (
            "shared_memory"
            if all(allowed for _, allowed in works) and len({host for host, _ in works}) == 1
            else "collective"
        )
    return SharedMemoryTransport(mesh.world) if wanted == "shared_memory" else CollectiveTransport(mesh)
