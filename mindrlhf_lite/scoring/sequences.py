"""A step's sequences in micro-batches, and their logprobs under a role, on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mindrlhf_lite.algorithms.aggregation import BatchTotals
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects, is_simulated
from mindrlhf_lite.parallel.shares import share_of_rank
from mindrlhf_lite.scoring.batches import MicroBatch, make_microbatch, pack
from mindrlhf_lite.scoring.scorer import Scorer
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import TrainSequence

Pack = Callable[[Sequence[TrainSequence], StreamShapes, bool], list[list[int]]]


class MicroBatcher:
    """Cuts sequences into micro-batches. `graphs`: kind and shape of those that were made, each compiled once.

    Args: token_weight: of `make_microbatch`; shares_prompts: whether completions of one prompt share it; pack: which
    sequences go together.
    """

    def __init__(self, token_weight: Callable[[int, BatchTotals], float], shares_prompts: bool, pack: Pack = pack):
        self._token_weight, self._shares_prompts, self._pack = token_weight, shares_prompts, pack
        self.graphs: set[tuple[str, int, int]] = set()

    def cut(
        self, kind: str, sequences: Sequence[TrainSequence], shapes: StreamShapes, totals: BatchTotals
    ) -> list[tuple[list[int], MicroBatch]]:
        """Every micro-batch, with the indices of its sequences. Args: kind: of the graphs that take them."""
        batches = []
        for indices in self._pack(sequences, shapes, self._shares_prompts):
            chosen = [sequences[index] for index in indices]
            batch = make_microbatch(chosen, shapes, self._token_weight, totals, self._shares_prompts)
            batches.append((indices, batch))
        self.graphs |= {(kind, *batch.shape) for _, batch in batches}
        return batches


class SequenceScoring:
    """Every rank calls it, with all sequences of the step in one order, and gets the logprobs of all."""

    def __init__(self, mesh: Mesh, batcher: MicroBatcher, shapes: StreamShapes):
        self._mesh, self._batcher, self._shapes = mesh, batcher, shapes

    def score(self, kind: str, scorer: Scorer, sequences: Sequence[TrainSequence]) -> list[np.ndarray]:
        """float32 [C] of every sequence's completion tokens. Args: kind: the role, whose graphs these are."""
        mesh, own = scorer.model.mesh, {}
        mine = share_of_rank(range(len(sequences)), mesh.share, mesh.dims.shares)
        chosen = [sequences[index] for index in mine]
        for indices, batch in self._batcher.cut(kind, chosen, self._shapes, BatchTotals(1, 1, 1)):
            for index, logprobs in zip(indices, scorer.score(batch)):  # nothing before the last stage
                own[mine[index]] = logprobs
        shares = gather_objects(self._mesh.world, own if mesh.reports else {}, dict[int, np.ndarray])
        scored = {index: logprobs for share in shares for index, logprobs in share.items()}
        if is_simulated():  # the ranks that have the others are not there
            lengths = [each.completion_length if scorer.is_of_tokens else 1 for each in sequences]
            scored |= {index: np.zeros(length, np.float32) for index, length in enumerate(lengths)}
        return [scored[index] for index in range(len(sequences))]
