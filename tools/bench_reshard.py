#!/usr/bin/env python3
"""Times a reshard between ranks of this machine, with both transports, against plain memory copies in the same run.

Run under msrun; the model's weights are random. GB/s counts all bytes written into the destination's parameters on all
ranks, local copies included, over the time of the slowest rank; memcpy copies as much between parameters of each rank,
by all ranks at once, with numpy, before every timed reshard. Peak memory is that of the first reshard, which also
compares checksums.

Example:
  OMP_NUM_THREADS=1 msrun --worker_num=4 --local_worker_num=4 --join=True tools/bench_reshard.py --src dp=1,tp=2,pp=2
  --dst dp=2,tp=2
"""

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import COUNT, run_tool, tool_parser


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--src", default="dp=1,tp=2,pp=2", help="source strategy (default: dp=1,tp=2,pp=2)")
    parser.add_argument("--dst", default="dp=2,tp=2", help="destination strategy (default: dp=2,tp=2)")
    parser.add_argument("--model_config", help="YAML of model_configs/; default: a model of 473 MB")
    parser.add_argument("--bucket_mb", type=COUNT, default=8, help="default: 8")
    parser.add_argument("--repeat", type=COUNT, default=9, help="reshards timed with each transport (default: 9)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    import numpy as np
    from mindspore import Parameter, Tensor

    from mindrlhf_lite.config.model_file import read_model_file
    from mindrlhf_lite.observe.host import peak_rss_gb, reset_peak_rss, rss_gb
    from mindrlhf_lite.parallel.layout import Strategy, buffers_of_rank, parse_strategy
    from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
    from mindrlhf_lite.reshard.executor import Resharder, ResidentSource
    from mindrlhf_lite.reshard.plan import make_plan
    from mindrlhf_lite.reshard.transports import CollectiveTransport, SharedMemoryTransport, Transport
    from mindrlhf_lite.shapes.model_config import ModelConfig
    from mindrlhf_lite.shapes.parameters import count_parameters

    mesh = Mesh()
    config = (
        read_model_file(args.model_config).shape
        if args.model_config
        else ModelConfig(32000, 768, 3072, 8, 12, 4, tie_word_embeddings=False)
    )
    source, destination = parse_strategy(args.src, "--src", config), parse_strategy(args.dst, "--dst", config)
    plan = make_plan(config, source, destination, mesh.world_size)
    rng = np.random.default_rng(mesh.rank)

    def parameters(strategy: Strategy, fill: bool, config: ModelConfig = config) -> dict[str, Parameter]:
        arrays = {
            b.name: rng.standard_normal(b.shape, np.float32) if fill else np.ones(b.shape, np.float32)
            for b in buffers_of_rank(config, strategy, mesh.rank)
        }
        return {name: Parameter(Tensor(array), name=name, requires_grad=False) for name, array in arrays.items()}

    weights, targets = parameters(source, True), parameters(destination, False)
    spare = parameters(destination, False)
    pairs = [(targets[name].asnumpy(), spare[name].asnumpy()) for name in targets]

    def copy_all() -> None:
        for target, other in pairs:
            np.copyto(target, other)

    def slowest(work: Callable[[], object]) -> float:
        gather_objects(mesh.world, None)
        start = time.perf_counter()
        work()
        return max(gather_objects(mesh.world, time.perf_counter() - start))

    total, received = int(plan.copied_bytes.sum()), int(plan.received_bytes.sum())
    report: dict = {
        "src": args.src,
        "dst": args.dst,
        "model_mb": round(4 * count_parameters(config) / 1e6, 1),
        "received_mb": round(received / 1e6, 1),
        "copied_mb": round(total / 1e6, 1),
    }
    for transport in (SharedMemoryTransport(mesh.world), CollectiveTransport(mesh)):
        moved: Transport = transport
        # a tiny one first: the memory of a reshard shall not count the code that the first one loads
        tiny = replace(config, vocab_size=64, intermediate_size=64)
        tiny_plan, from_, to = (
            make_plan(tiny, source, destination, mesh.world_size),
            parameters(source, True, tiny),
            parameters(destination, False, tiny),
        )
        Resharder(tiny_plan, mesh.rank, mesh.world, to, moved).run(ResidentSource(from_))
        resharder = Resharder(plan, mesh.rank, mesh.world, targets, moved, args.bucket_mb << 20)
        ctypes.CDLL(None).malloc_trim(0)  # so that the first run's memory shows
        reset_peak_rss()
        before = rss_gb()
        resharder.run(ResidentSource(weights))  # first: with checksums
        extra = max(gather_objects(mesh.world, peak_rss_gb() - before)) * 2**30
        memcpy, seconds = [], []
        for _ in range(args.repeat):  # taking turns: a shared machine's memory is not equally fast all the time
            memcpy.append(slowest(copy_all))
            seconds.append(
                max(gather_objects(mesh.world, resharder.run(ResidentSource(weights), is_checked=False).seconds))
            )
        median = statistics.median(seconds)
        report[moved.name] = {
            "seconds": round(median, 4),
            "gb_per_s": round(total / 1e9 / median, 2),
            "received_gb_per_s": round(received / 1e9 / median, 2),
            "memcpy_gb_per_s": round(total / 1e9 / statistics.median(memcpy), 2),
            "share_of_memcpy": round(
                statistics.median(copy / move for copy, move in zip(memcpy, seconds, strict=True)), 3
            ),
            "peak_extra_mb_per_rank": round(extra / 1e6, 1),
        }
    if mesh.is_main:
        print(json.dumps(report, indent=1), flush=True)


if __name__ == "__main__":
    run_tool(main)
