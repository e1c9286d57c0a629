#!/usr/bin/env python3
"""Measures what recomputing activations saves and costs, all of them (recomputed) or attention's (select): memory and
time of one micro-batch's gradients, each in a process of its own.

Examples:
  python tools/bench_recompute.py
  python tools/bench_recompute.py --layers 24 --hidden 512 --rows 8 --length 512
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mindrlhf_lite.commands.tool import COUNT, run_tool, tool_parser
from mindrlhf_lite.errors import UserError


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--layers", type=COUNT, default=12, help="default: 12")
    parser.add_argument(
        "--hidden", type=COUNT, default=256, help="hidden size; the MLP is three times as wide (default: 256)"
    )
    parser.add_argument("--rows", type=COUNT, default=32, help="sequences (default: 32)")
    parser.add_argument("--length", type=COUNT, default=256, help="tokens of a sequence (default: 256)")
    parser.add_argument(
        "--only",
        choices=("kept", "select", "recomputed"),
        help="measure in this process (what the tool calls itself with)",
    )
    return parser.parse_args()


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Growth of peak memory in GiB over what weights and libraries take, and the median seconds of three
    micro-batches.
    """
    import mindspore as ms
    import numpy as np

    ms.set_context(mode=ms.GRAPH_MODE)
    from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
    from mindrlhf_lite.learner.adamw import AdamWOptions
    from mindrlhf_lite.learner.policy_loss import Objective
    from mindrlhf_lite.learner.trained_model import Actor
    from mindrlhf_lite.models.decoder import Decoder
    from mindrlhf_lite.scoring.batches import make_microbatch
    from mindrlhf_lite.scoring.stages import Keeps
    from mindrlhf_lite.shapes.model_config import ModelConfig
    from mindrlhf_lite.shapes.parameters import parameter_specs
    from mindrlhf_lite.shapes.streams import StreamShapes
    from mindrlhf_lite.types import TrainSequence

    keeps = {"kept": Keeps.ALL, "select": Keeps.PRODUCTS, "recomputed": Keeps.INPUTS}[args.only]
    shape = ModelConfig(300, args.hidden, 3 * args.hidden, args.layers, 4, 2, max_position_embeddings=args.length)
    rng = np.random.default_rng(0)
    weights = {spec.name: rng.normal(0, 0.02, spec.shape).astype(np.float32) for spec in parameter_specs(shape)}
    actor = Actor(
        Decoder(shape, weights, True, args.length),
        Objective(),
        AdamWOptions(),
        keeps=keeps,
    )
    sequences = [
        TrainSequence.of(rng.integers(0, 300, args.length).astype(np.int32), 16, 1.0) for _ in range(args.rows)
    ]
    tokens = args.length - 16
    shapes = StreamShapes(args.rows * args.length, args.length)
    totals = BatchTotals(args.rows * tokens, args.rows, tokens)
    batch = make_microbatch(sequences, shapes, token_mean, totals)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    actor.accumulate([batch])  # compiles
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        actor.accumulate([batch])
        seconds.append(time.perf_counter() - start)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"growth_gib": round(growth / 2**20, 2), "seconds": round(statistics.median(seconds), 2)}


def main() -> None:
    args = parse_arguments()
    if args.only:
        print(json.dumps(measure(args)))
        return
    for mode in ("kept", "select", "recomputed"):
        result = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--only", mode], capture_output=True, encoding="utf-8"
        )
        if result.returncode:
            raise UserError(f"the measurement with activations {mode} failed:\n{result.stderr[-3000:]}")
        print(json.dumps({mode: json.loads(result.stdout.splitlines()[-1])}), flush=True)


if __name__ == "__main__":
    run_tool(main)
