"""Pairs of sequences that a loss compares: both in one micro-batch, the chosen one first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mindspore import Tensor, jit

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.score_head import Scores
from mindrlhf_lite.parallel.compiled import CompiledCell
from mindrlhf_lite.scoring.batches import MicroBatch
from mindrlhf_lite.scoring.stages import StageLayers, run_stages
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import TrainSequence


def pack_pairs(
    sequences: Sequence[TrainSequence], shapes: StreamShapes, shares_prompts: bool = True
) -> list[list[int]]:
    """As `batches.pack`, without dividing a pair: sequences 2 i and 2 i + 1."""
    sizes = [_tokens(sequences[place : place + 2], shares_prompts) for place in range(0, len(sequences), 2)]
    packed: list[list[int]] = []
    room, left = 0, sum(sizes)
    for number, size in enumerate(sizes):
        if size > room:
            packed.append([])
            room = shapes.stream_for(left, size)
        packed[-1] += [2 * number, 2 * number + 1]
        room, left = room - size, left - size
    return packed


def _tokens(pair: Sequence[TrainSequence], shares_prompts: bool) -> int:
    """Of a stream."""
    chosen, rejected = (each.token_ids[: each.prompt_length] for each in pair)
    is_shared = shares_prompts and np.array_equal(chosen, rejected)
    return sum(len(each.token_ids) for each in pair) - is_shared * len(chosen)


def weights_of_pairs(batch: MicroBatch) -> np.ndarray:
    """float32 [T / 2]: each pair's share in the loss of the update, 0 where there is none; of batches whose tokens
    weigh as `sequence_sum` has it.
    """
    found, starts = np.zeros(len(batch.token_ids) // 2, np.float32), np.cumsum((0, *batch.lengths[:-1]))
    spans = list(zip(starts, batch.lengths, strict=True))[::2]  # of the chosen ones
    found[: len(spans)] = [2 * batch.weight[start : start + count].max() for start, count in spans]
    return found


class _ScoreHead(CompiledCell):
    def __init__(self, model: Decoder):
        super().__init__()
        self.scores = Scores(model)

    @jit
    def construct(self, stream: Tensor, places: Tensor) -> Tensor:
        return self.scores(stream, places)


class LastTokenScorer:
    """A score head's numbers of whole sequences: at their last tokens, as transformers has them.

    Args: alike: layers whose graph serves this model too (see `StageLayers`).
    """

    is_of_tokens = False

    def __init__(self, model: Decoder, alike: StageLayers | None = None):
        self.model = model
        self._layers, self._head = StageLayers(model, alike), _ScoreHead(model)

    def score(self, batch: MicroBatch) -> list[np.ndarray]:
        """float32 [1] of every sequence; nothing on ranks before the last stage."""
        stream = run_stages(self._layers, batch)
        if stream is None:
            return []
        return list(self._head(stream, Tensor(batch.ends)).asnumpy()[: len(batch.lengths)].reshape(-1, 1))
