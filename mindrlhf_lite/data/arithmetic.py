"""The generated arithmetic task: sums of two numbers, in two splits that share none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mindrlhf_lite.errors import UserError


def arithmetic_rows(count: int, seed: int, split: str, digits: int = 2) -> Iterator[dict[str, str]]:
    """`count` distinct sums of two numbers of up to `digits` digits; the train split has no sum of the held-out one, in
    neither order of its numbers.
    """
    pairs = _pairs(seed, split, digits)
    if count > len(pairs):
        raise UserError(
            f"--num_rows {count}: the {split} split of {digits}-digit sums has {len(pairs)} rows; ask for fewer "
            "or more digits"
        )
    for a, b in pairs[:count]:
        yield {"question": f"{a}+{b}=", "answer": str(a + b)}


def num_arithmetic_rows(seed: int, split: str, digits: int = 2) -> int:
    """How many sums a split of `arithmetic_rows` has."""
    return len(_pairs(seed, split, digits))


def _pairs(seed: int, split: str, digits: int) -> np.ndarray:
    """int [N, 2]: of a seeded shuffle of all pairs (a, b) the first fifth is held out; the others train, without those
    that are a held-out one the other way round.
    """
    limit = 10**digits
    order = np.random.default_rng(seed).permutation(limit * limit)
    held_out, others = np.split(order, [limit * limit // 5])
    if split == "held_out":
        return np.stack(np.divmod(held_out, limit), 1)
    a, b = np.divmod(others, limit)
    return np.stack([a, b], 1)[~np.isin(b * limit + a, held_out)]
