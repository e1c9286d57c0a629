"""Lengths that sequences are padded to, so that few graphs are compiled."""

from __future__ import annotations

from collections.abc import Sequence

from mindrlhf_lite.errors import UserError

# padded tokens of prompts that are prefilled together: products of at least 64 rows give each row the same bits
_LEAST_PREFILLED, _MOST_PREFILLED = 64, 512


def default_buckets(longest: int) -> tuple[int, ...]:
    """Two bucket lengths an octave (8, 12, 16, 24, 32, 48, ...), ending with `longest`."""
    buckets, step = [], 8
    while step < longest:
        buckets += [step] + ([step * 3 // 2] if step * 3 // 2 < longest else [])
        step *= 2
    return (*buckets, longest)


def round_up(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `length`."""
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise UserError(f"length {length} exceeds the largest bucket {buckets[-1]}; raise seq_length")


def prefill_rows(width: int, num_slots: int) -> tuple[int, int]:
    """Prompts of so many padded tokens that are prefilled together: (at least, at most).

    Example: prefill_rows(100, 16) == (1, 5)
    """
    least = -(-_LEAST_PREFILLED // width)
    return least, max(min(_MOST_PREFILLED // width, num_slots), least)
