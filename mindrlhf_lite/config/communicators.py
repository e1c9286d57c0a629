"""How many communicators a rank has, and what they take of an Ascend device beside MindSpore's memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy
from mindrlhf_lite.parallel.mesh import PAIR_BUFFER_MB
from mindrlhf_lite.reshard.plan import last_plan
from mindrlhf_lite.shapes.model_config import ModelConfig

_BUFFER_MB = 200  # HCCL_BUFFSIZE, by default; a communicator has two


def groups_of_rank(dims: Sequence[ParallelDims], world_size: int) -> int:
    """Communicators of the fullest rank, as `Mesh` makes them; groups of the same ranks are one."""
    if world_size == 1:
        return 0
    found: set[tuple[int, ...]] = {tuple(range(world_size))}
    for each in dims:
        at = each.pipeline // 2  # a stage between two others has most
        found.add(tuple(each.rank(0, t, at) for t in range(each.tensor)))
        found.add(tuple(each.rank(d, 0, at) for d in range(each.copies)))
        found.add(tuple(each.rank(d, 0, at) for d in range(each.context)))
        found.add(tuple(each.rank(0, t, s) for s in range(each.pipeline) for t in range(each.tensor)))
        for stage in range(max(0, at - 1), min(at + 1, each.pipeline - 1)):
            found.add((each.rank(0, 0, stage), each.rank(0, 0, stage + 1)))
    return sum(len(ranks) > 1 for ranks in found)


@cache
def pairs_of_rank(shape: ModelConfig, source: Strategy, destinations: tuple[Strategy, ...], world_size: int) -> int:
    """Other ranks that the busiest rank exchanges weights with in the reshards from one layout to others."""
    partners: dict[int, set[int]] = {}
    for destination in destinations:
        for transfer in last_plan(shape, source, destination, world_size).transfers:
            for sender, receiver in zip(transfer.senders.tolist(), transfer.receivers.tolist()):
                if sender != receiver:
                    partners.setdefault(sender, set()).add(receiver)
                    partners.setdefault(receiver, set()).add(sender)
    return max(map(len, partners.values()), default=0)


def communicator_bytes(
    shape: ModelConfig, strategies: dict[str, Strategy], world_size: int, followers: Sequence[str] = ()
) -> int:
    """Of the fullest rank: two buffers each. Args: followers: roles that take the actor's weights, besides the rollout
    model.
    """
    groups = groups_of_rank([strategy.dims for strategy in strategies.values()], world_size)
    destinations = tuple(strategies[name] for name in ("rollout", *followers))
    pairs = pairs_of_rank(shape, strategies["actor"], destinations, world_size)
    return 2 * (groups * _BUFFER_MB + pairs * PAIR_BUFFER_MB) * 10**6
