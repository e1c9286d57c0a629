"""Many steps of generation and training by the CPU's own operators; prints what they left behind as JSON."""

import json
import os
import time
from pathlib import Path

import numpy as np
from helpers import TINY, random_weights

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.policy_loss import Objective, PolicyLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.native.library import set_up
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import GenerateRequest, SamplingParams, TrainSequence


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    set_up(num_threads=3)
    native = Precision.here("float32", is_native=True)
    assert native.has_native_kernels
    weights, rng = random_weights(TINY), np.random.default_rng(0)
    model = Decoder(TINY, weights, True, 128, precision=native)
    trained = TrainedModel(model, PolicyLoss(model, Objective()), AdamW(model, AdamWOptions()))
    engine = NativeEngine(Decoder(TINY, weights, False, 64, precision=native), 16, 64)
    resident = {}
    for step in range(300):
        prompt = tuple(int(token) for token in rng.integers(0, 97, rng.integers(2, 30)))
        (completions,) = engine.generate([GenerateRequest(prompt, 4, (step,))], SamplingParams(4))
        sequences = [
            TrainSequence.of(np.array([*prompt, *each.token_ids], np.int32), len(prompt), 1.0) for each in completions
        ]
        totals = BatchTotals(sum(each.completion_length for each in sequences), len(sequences), 16)
        trained.accumulate([make_microbatch(sequences, StreamShapes(192, 192), token_mean, totals)])
        assert np.isfinite(trained.optimizer.step(1e-4))
        if step in (99, 299):
            resident[step] = resident_mib()
    before = time.process_time()
    time.sleep(1)
    idle = time.process_time() - before
    print(json.dumps({"grown_mib": resident[299] - resident[99], "idle_processor_seconds": idle}))


if __name__ == "__main__":
    main()
