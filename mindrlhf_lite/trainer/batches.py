"""Sequences to arrays of a few fixed shapes: length buckets, micro-batches, per-token features.

Every micro-batch has the same number of rows; lengths are rounded up to a bucket. Rows that only fill up a micro-batch
are zeros with weight and mask 0: they are never copies of real sequences. Masks come from lengths, never from token
ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mindrlhf_lite.algorithms.aggregation import BatchTotals
from mindrlhf_lite.shapes.buckets import round_up
from mindrlhf_lite.types import TrainSequence


@dataclass(frozen=True)
class MicroBatch:
    """Arrays of one forward pass: B rows of T tokens, N = B * C completion-token slots.

    Slot n holds the prediction of `labels[n]` from the hidden state at flat position `positions[n]` of [B * T].
    """

    token_ids: np.ndarray  # int32 [B, T], padded on the right with 0
    positions: np.ndarray  # int32 [N]
    labels: np.ndarray  # int32 [N]
    mask: np.ndarray  # float32 [N], 1 on valid completion tokens
    weight: np.ndarray  # float32 [N], the token's share of the loss; 0 where masked
    advantages: np.ndarray  # float32 [N]
    frozen_logprobs: np.ndarray  # float32 [N], 0 where unknown
    reference_logprobs: np.ndarray  # float32 [N], 0 where unknown
    sampling_logprobs: np.ndarray  # float32 [N], 0 where unknown
    lengths: tuple[int, ...]  # completion tokens of every real row, in order

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Cuts per-slot values [N] into one array a real row, without padding."""
        width = len(values) // len(self.token_ids)
        return [values[row * width : row * width + length].copy() for row, length in enumerate(self.lengths)]


@dataclass(frozen=True)
class BucketPlan:
    """Which lengths are allowed: `total` for prompt + completion, `completion` for completions."""

    total: tuple[int, ...]
    completion: tuple[int, ...]


def make_microbatch(
    sequences: Sequence[TrainSequence],
    rows: int,
    plan: BucketPlan,
    token_weight: Callable[[int, BatchTotals], float],
    totals: BatchTotals,
) -> MicroBatch:
    """Pads up to `rows` sequences into one micro-batch."""
    if not 0 < len(sequences) <= rows:
        raise ValueError(f"{len(sequences)} sequences do not fit in {rows} rows")
    length = round_up(max(len(s.token_ids) for s in sequences), plan.total)
    width = min(round_up(max(s.completion_length for s in sequences), plan.completion), length)
    token_ids = np.zeros((rows, length), np.int32)
    positions, labels = np.zeros((rows, width), np.int32), np.zeros((rows, width), np.int32)
    mask, weight, advantages, policy, reference, sampling = (np.zeros((rows, width), np.float32) for _ in range(6))
    for row, sequence in enumerate(sequences):
        count, start = sequence.completion_length, sequence.prompt_length
        token_ids[row, : len(sequence.token_ids)] = sequence.token_ids
        positions[row, :count] = row * length + np.arange(start - 1, start - 1 + count)
        labels[row, :count] = sequence.token_ids[start:]
        mask[row, :count] = 1.0
        weight[row, :count] = token_weight(count, totals)
        advantages[row, :count] = sequence.advantage
        if sequence.frozen_logprobs is not None:
            policy[row, :count] = sequence.frozen_logprobs
        if sequence.reference_logprobs is not None:
            reference[row, :count] = sequence.reference_logprobs
        if sequence.sampling_logprobs is not None:
            sampling[row, :count] = sequence.sampling_logprobs
    lengths = tuple(sequence.completion_length for sequence in sequences)
    return MicroBatch(
        token_ids,
        positions.ravel(),
        labels.ravel(),
        mask.ravel(),
        weight.ravel(),
        advantages.ravel(),
        policy.ravel(),
        reference.ravel(),
        sampling.ravel(),
        lengths,
    )


def split_into_microbatches(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Indices in micro-batches of at most `rows`, sequences of similar length together; ties keep their order."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return [order[start : start + rows] for start in range(0, len(order), rows)]
