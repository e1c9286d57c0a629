"""Who has which of a step's prompts and sequences: the one place that says so. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def share_of_rank(items: Sequence[int], rank: int, num_ranks: int) -> list[int]:
    """Every `num_ranks`-th item: of prompts to complete, and of sequences to score. Then an update's first k global
    prompts are the first k / num_ranks of every rank.
    """
    return list(items[rank::num_ranks])


def share_of_update(count: int, group: int, share: int, shares: int) -> list[int]:
    """Which of an update's `count` sequences are a share's: whole groups in turn or, where a share's are not whole
    groups, as many in a row for each.

    Example: share_of_update(8, 2, 0, 2) == [0, 1, 4, 5]; share_of_update(8, 8, 0, 2) == [0, 1, 2, 3]
    """
    if count % (group * shares) == 0:
        return [index for index in range(count) if index // group % shares == share]
    return list(range(share * count // shares, (share + 1) * count // shares))
