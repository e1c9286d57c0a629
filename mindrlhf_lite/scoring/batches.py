"""Sequences to micro-batches of few fixed shapes: packing, the keys that attention needs, per-token features.

A micro-batch is one stream of tokens: a prompt, then those completions of it that belong here, then the next prompt.
Micro-batches are filled by tokens up to a budget; the last one may be a smaller stream. Only what fills up a stream is
padding: token 0 in no segment, with weight and mask 0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from mindrlhf_lite.algorithms.aggregation import BatchTotals
from mindrlhf_lite.shapes.buckets import round_up
from mindrlhf_lite.shapes.streams import BLOCK, StreamShapes
from mindrlhf_lite.types import TrainSequence

_DIVIDES_FROM = 2  # a group is divided to fill a gap of so many times its prompt, which is then computed twice
_NOBODY = -1  # segment of padding


@dataclass(frozen=True)
class MicroBatch:
    """Arrays of one forward pass: a stream of T tokens in B blocks, and T slots for its completion tokens.

    Slot n holds the prediction of `labels[n]` from the hidden state at place `predictors[n]` of the stream.
    """

    token_ids: np.ndarray  # int32 [T]
    position_ids: np.ndarray  # int32 [T], in the token's own sequence
    segments: np.ndarray  # int32 [T]: which prompt or completion a token belongs to; -1: padding
    prompts: np.ndarray  # int32 [T]: the segment of its prompt
    keys: np.ndarray  # int32 [B, K]: places that some token of the block may attend to
    used_keys: np.ndarray  # int32 [B]: how many of them are such; the others fill up
    predictors: np.ndarray  # int32 [T]
    labels: np.ndarray  # int32 [T]
    mask: np.ndarray  # float32 [T], 1 on completion tokens that count
    weight: np.ndarray  # float32 [T], the token's share of the loss; 0 where masked
    sequences: np.ndarray  # int32 [T]: number of its sequence
    inverse_lengths: np.ndarray  # float32 [T]: 1 / tokens of its sequence that count
    advantages: np.ndarray  # float32 [T]
    frozen_logprobs: np.ndarray  # float32 [T], 0 where unknown
    reference_logprobs: np.ndarray  # float32 [T], 0 where unknown
    sampling_logprobs: np.ndarray  # float32 [T], 0 where unknown
    ends: np.ndarray  # int32 [T]: the place of the last token of every sequence, in order; 0 behind them
    lengths: tuple[int, ...]  # completion tokens of every sequence, in order
    kl_coefficient: np.float32 = np.float32(0)
    loss_scale: np.float32 = np.float32(1)
    divergence: np.float32 = np.float32(0)  # of the policy to the reference, of the whole update (KTO)
    of_roles: Mapping[str, np.ndarray] = field(default_factory=dict)  # float32 [T] each, as of the sequences

    @property
    def num_padding(self) -> int:
        """Tokens of the stream that only fill it up."""
        return int((self.segments == _NOBODY).sum())

    @property
    def shape(self) -> tuple[int, int]:
        """(T, K): micro-batches of one shape share a graph."""
        return len(self.token_ids), self.keys.shape[1]

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Cuts per-slot values [T] into one array a sequence, without padding."""
        ends = np.cumsum(self.lengths)
        return [part.copy() for part in np.split(values[: ends[-1]], ends[:-1])]


def pack(sequences: Sequence[TrainSequence], shapes: StreamShapes, shares_prompts: bool = True) -> list[list[int]]:
    """Indices of the sequences of each micro-batch, completions of one prompt next to each other.

    Args: shares_prompts: whether completions of one prompt share it; False: every sequence brings its own.
    """
    groups: dict[bytes | int, list[int]] = {}
    for index, sequence in enumerate(sequences):
        prompt = sequence.token_ids[: sequence.prompt_length].tobytes()
        groups.setdefault(prompt if shares_prompts else index, []).append(index)

    def own(index: int) -> int:
        return sequences[index].completion_length + sequences[index].num_read_again

    def tokens(members: Sequence[int]) -> int:
        return sequences[members[0]].prompt_length + sum(map(own, members))

    left, packed = sum(map(tokens, groups.values())), []
    stream: list[int] = []
    room = 0
    # of a group that is divided, the long completions first: the short ones fill the gaps
    waiting = deque(sorted(group, key=lambda index: -own(index)) for group in groups.values())
    while waiting:
        group = waiting.popleft()
        prompt_length = sequences[group[0]].prompt_length
        taken, used = [], prompt_length
        # a stream of its own has room for one at least
        if not stream or tokens(group) <= room or room >= _DIVIDES_FROM * prompt_length:
            for index in group:
                if used + own(index) <= room:
                    taken.append(index)
                    used += own(index)
        if taken:
            stream += sorted(taken)
            room, left = room - used, left - used
        if rest := [index for index in group if index not in taken]:
            left += prompt_length if taken else 0  # once more
            waiting.appendleft(rest)
            packed.append(stream)
            stream, room = [], shapes.stream_for(left, prompt_length + own(rest[0]))
            assert prompt_length + own(rest[0]) <= room, "a sequence longer than the longest"
    return [members for members in (*packed, stream) if members]


def make_microbatch(
    sequences: Sequence[TrainSequence],
    shapes: StreamShapes,
    token_weight: Callable[[int, BatchTotals], float],
    totals: BatchTotals,
    shares_prompts: bool = True,
) -> MicroBatch:
    """One stream of the sequences; neighbours with one prompt share it."""
    stream = _Stream()
    for sequence in sequences:
        stream.add(sequence, shares_prompts)
    length = round_up(len(stream.token_ids), shapes.streams)
    keys, used = stream.keys_of_blocks(length, shapes.keys)
    lengths = tuple(sequence.completion_length for sequence in sequences)

    def of_slots(values: Callable[[TrainSequence], np.ndarray | float | None]) -> np.ndarray:
        filled, start = np.zeros(length, np.float32), 0
        for sequence in sequences:
            value = values(sequence)
            if value is not None:
                filled[start : start + sequence.completion_length] = value
            start += sequence.completion_length
        return filled

    return MicroBatch(
        _filled(stream.token_ids, length, 0),
        _filled(stream.positions, length, 0),
        _filled(stream.segments, length, _NOBODY),
        _filled(stream.prompts, length, _NOBODY),
        keys,
        used,
        _filled(stream.predictors, length, 0),
        _filled(np.concatenate([sequence.token_ids[sequence.prompt_length :] for sequence in sequences]), length, 0),
        of_slots(lambda sequence: sequence.mask),
        of_slots(lambda sequence: sequence.mask * token_weight(sequence.num_counted, totals)),
        _filled(np.repeat(np.arange(len(sequences)), lengths), length, len(sequences) - 1),
        of_slots(lambda sequence: 1.0 / max(1, sequence.num_counted)),
        of_slots(lambda sequence: sequence.advantages),
        of_slots(lambda sequence: sequence.frozen_logprobs),
        of_slots(lambda sequence: sequence.reference_logprobs),
        of_slots(lambda sequence: sequence.sampling_logprobs),
        _filled(stream.ends, length, 0),
        lengths,
        of_roles={name: of_slots(partial(_of_role, name)) for name in sequences[0].of_roles},
    )


def _of_role(name: str, sequence: TrainSequence) -> np.ndarray:
    return sequence.of_roles[name]


class _Stream:
    """A stream that grows by sequences."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.positions: list[int] = []
        self.segments: list[int] = []
        self.prompts: list[int] = []
        self.predictors: list[int] = []
        self.ends: list[int] = []  # of every sequence: its last token's place
        self._prompt: list[int] | None = None  # the last one, and where it and each segment begins
        self._prompt_start = self._prompt_segment = 0
        self._spans: list[tuple[int, int]] = []  # of each segment: first place, end
        self._prompt_of: list[int] = []  # of each segment: its prompt's segment

    def add(self, sequence: TrainSequence, shares_prompts: bool) -> None:
        ids = sequence.token_ids.tolist()
        prompt, completion = ids[: sequence.prompt_length], ids[sequence.prompt_length :]
        if not shares_prompts or prompt != self._prompt:
            self._prompt, self._prompt_start, self._prompt_segment = prompt, len(self.token_ids), len(self._spans)
            self._extend(prompt, 0, self._prompt_segment)
        edges = [*(restart.start for restart in sequence.restarts), len(completion)]
        self._add_sample(completion[: edges[0]], len(prompt), self._prompt_start, self._prompt_segment)
        for restart, end in zip(sequence.restarts, edges[1:], strict=True):
            start, segment = len(self.token_ids), len(self._spans)
            self._extend(list(restart.prompt_ids), 0, segment)
            self._add_sample(completion[restart.start : end], len(restart.prompt_ids), start, segment)
        self.ends.append(len(self.token_ids) - 1)

    def _add_sample(self, written: list[int], prompt_length: int, prompt_start: int, prompt_segment: int) -> None:
        start = len(self.token_ids)
        self._extend(written, prompt_length, prompt_segment)
        self.predictors += [prompt_start + prompt_length - 1, *range(start, start + len(written) - 1)]

    def _extend(self, ids: list[int], first_position: int, prompt_segment: int) -> None:
        start, segment = len(self.token_ids), len(self._spans)
        self.token_ids += ids
        self.positions += range(first_position, first_position + len(ids))
        self.segments += [segment] * len(ids)
        self.prompts += [prompt_segment] * len(ids)
        self._spans.append((start, start + len(ids)))
        self._prompt_of.append(prompt_segment)

    def keys_of_blocks(self, length: int, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(int32 [blocks, K], int32 [blocks]): the places that some token of a block may attend to, and how many."""
        found = []
        for start in range(0, length, BLOCK):
            end = min(start + BLOCK, len(self.token_ids))
            own = dict.fromkeys(self.segments[start:end])
            wanted = dict.fromkeys([self._prompt_of[segment] for segment in own] + list(own))
            parts = [np.arange(first, min(last, end)) for first, last in map(self._spans.__getitem__, wanted)]
            found.append(np.concatenate([np.zeros(0, np.int64), *parts]))
        used = np.array([len(places) for places in found], np.int32)
        keys = np.zeros((len(found), min(round_up(int(used.max()), sizes), length)), np.int32)
        for row, places in enumerate(found):
            keys[row, : len(places)] = places
        return keys, used


def _filled(values: Sequence[int] | np.ndarray, length: int, filler: int) -> np.ndarray:
    array = np.full(length, filler, np.int32)
    array[: len(values)] = values
    return array
