"""How per-token losses become one number: a weight a completion token, summed over the whole global batch.

The weight of a token depends on how many tokens of its own completion count, and on totals over the global batch, never
on the micro-batch, the packing or the layout, so neither does the loss. A completion of which no token counts is a
sequence all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchTotals:
    """Totals over one optimizer update, all ranks. Example: BatchTotals(num_tokens=1200, num_sequences=64,
    max_tokens=32)
    """

    num_tokens: int  # completion tokens that count
    num_sequences: int
    max_tokens: int  # the configured limit on completion tokens


def token_mean(length: int, totals: BatchTotals) -> float:
    """1 / sum_j |o_j|: every token of the batch counts the same (DAPO, arXiv:2503.14476, eq. 12)."""
    return 1.0 / max(1, totals.num_tokens)


def sequence_mean(length: int, totals: BatchTotals) -> float:
    """1 / (|o_i| G): every completion counts the same (DeepSeekMath, arXiv:2402.03300, eq. 3)."""
    return 1.0 / (max(1, length) * totals.num_sequences)


def sequence_sum(length: int, totals: BatchTotals) -> float:
    """1 / G: a completion's tokens are summed, and completions averaged, as the policy gradient has it."""
    return 1.0 / totals.num_sequences


def constant(length: int, totals: BatchTotals) -> float:
    """1 / (max_tokens G): neither length nor batch composition matters (Dr. GRPO, arXiv:2503.20783, sec. 3.2)."""
    return 1.0 / (totals.max_tokens * totals.num_sequences)


AGGREGATIONS: dict[str, Callable[[int, BatchTotals], float]] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "sequence_sum": sequence_sum,
    "constant": constant,
}
