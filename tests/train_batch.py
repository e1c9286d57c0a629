"""A micro-batch to train on, for tests: of a vocabulary of 97, sequences up to 192 tokens together."""

import numpy as np

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import TrainSequence


def train_batch():
    """Completions that share a long prompt, and sequences by themselves."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 97, 40)
    sequences = [
        TrainSequence.of(np.concatenate([prompt, rng.integers(0, 97, length)]).astype(np.int32), 40, advantage)
        for length, advantage in ((20, 1.0), (9, -0.5), (37, 0.3))
    ]
    sequences += [TrainSequence.of(rng.integers(0, 97, length).astype(np.int32), 4, 0.5) for length in (8, 25)]
    totals = BatchTotals(sum(each.completion_length for each in sequences), len(sequences), 60)
    return make_microbatch(sequences, StreamShapes(192, 192), token_mean, totals)
