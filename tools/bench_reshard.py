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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import COUNT, tool_parser
from mindrlhf_lite.launch.joined_tool import run_joined_tool

if TYPE_CHECKING:
    from mindspore import Parameter

    from mindrlhf_lite.parallel.layout import Strategy
    from mindrlhf_lite.reshard.transports import Transport
    from mindrlhf_lite.shapes.model_config import ModelConfig


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--src", default="dp=1,tp=2,pp=2", help="source strategy (default: dp=1,tp=2,pp=2)")
    parser.add_argument("--dst", default="dp=2,tp=2", help="destination strategy (default: dp=2,tp=2)")
    parser.add_argument("--model_config", help="YAML of model_configs/; default: a model of 473 MB")
    parser.add_argument("--bucket_mb", type=COUNT, default=8, help="default: 8")
    parser.add_argument("--repeat", type=COUNT, default=9, help="reshards timed with each transport (default: 9)")
    return parser.parse_args()


class Bench:
    """A model under two strategies on the ranks of this job, and what is copied between them."""

    def __init__(self, args: argparse.Namespace):
        import numpy as np

        from mindrlhf_lite.config.model_file import read_model_file
        from mindrlhf_lite.parallel.layout import parse_strategy
        from mindrlhf_lite.parallel.mesh import Mesh
        from mindrlhf_lite.reshard.plan import make_plan
        from mindrlhf_lite.shapes.model_config import ModelConfig

        self.mesh, self.bucket_bytes, self.repeat = Mesh(), args.bucket_mb << 20, args.repeat
        self.config = (
            read_model_file(args.model_config).shape
            if args.model_config
            else ModelConfig(32000, 768, 3072, 8, 12, 4, tie_word_embeddings=False)
        )
        self.source = parse_strategy(args.src, "--src", self.config)
        self.destination = parse_strategy(args.dst, "--dst", self.config)
        self.plan = make_plan(self.config, self.source, self.destination, self.mesh.world_size)
        self.rng = np.random.default_rng(self.mesh.rank)
        self.weights = self.parameters(self.config, self.source, fill=True)
        self.targets, spare = (self.parameters(self.config, self.destination, fill=False) for _ in range(2))
        self.pairs = [(self.targets[name].asnumpy(), spare[name].asnumpy()) for name in self.targets]
        self.spare = spare  # whose memory the pairs show
        self.copied, self.received = int(self.plan.copied_bytes.sum()), int(self.plan.received_bytes.sum())

    def parameters(self, config: "ModelConfig", strategy: "Strategy", fill: bool) -> "dict[str, Parameter]":
        """This rank's buffers: random numbers, or ones."""
        import numpy as np
        from mindspore import Parameter, Tensor

        from mindrlhf_lite.parallel.layout import buffers_of_rank

        arrays = {
            b.name: self.rng.standard_normal(b.shape, np.float32) if fill else np.ones(b.shape, np.float32)
            for b in buffers_of_rank(config, strategy, self.mesh.rank)
        }
        return {name: Parameter(Tensor(array), name=name, requires_grad=False) for name, array in arrays.items()}

    def slowest(self, seconds: float) -> float:
        from mindrlhf_lite.parallel.mesh import gather_objects

        return float(max(gather_objects(self.mesh.world, seconds)))

    def time_memcpy(self) -> float:
        """Seconds that the slowest rank takes to copy as much, all ranks at once."""
        import numpy as np

        self.slowest(0.0)  # all begin together
        start = time.perf_counter()
        for target, other in self.pairs:
            np.copyto(target, other)
        return self.slowest(time.perf_counter() - start)

    def load_code(self, transport: "Transport") -> None:
        """A tiny reshard: the memory of a timed one shall not count the code that the first one loads."""
        from mindrlhf_lite.reshard.executor import Resharder, ResidentSource
        from mindrlhf_lite.reshard.plan import make_plan

        tiny = replace(self.config, vocab_size=64, intermediate_size=64)
        plan = make_plan(tiny, self.source, self.destination, self.mesh.world_size)
        weights = self.parameters(tiny, self.source, fill=True)
        targets = self.parameters(tiny, self.destination, fill=False)
        Resharder(plan, self.mesh.rank, self.mesh.world, targets, transport).run(ResidentSource(weights))

    def measure(self, transport: "Transport") -> dict[str, float]:
        from mindrlhf_lite.observe.host import peak_rss_gb, reset_peak_rss, rss_gb
        from mindrlhf_lite.reshard.executor import Resharder, ResidentSource

        self.load_code(transport)
        resharder = Resharder(self.plan, self.mesh.rank, self.mesh.world, self.targets, transport, self.bucket_bytes)
        ctypes.CDLL(None).malloc_trim(0)  # so that the first run's memory shows
        reset_peak_rss()
        before = rss_gb()
        resharder.run(ResidentSource(self.weights))  # first: with checksums
        extra = self.slowest(peak_rss_gb() - before) * 2**30
        memcpy, seconds = [], []
        for _ in range(self.repeat):  # taking turns: a shared machine's memory is not equally fast all the time
            memcpy.append(self.time_memcpy())
            seconds.append(self.slowest(resharder.run(ResidentSource(self.weights), is_checked=False).seconds))
        median = statistics.median(seconds)
        shares = [copy / move for copy, move in zip(memcpy, seconds, strict=True)]
        return {
            "seconds": round(median, 4),
            "gb_per_s": round(self.copied / 1e9 / median, 2),
            "received_gb_per_s": round(self.received / 1e9 / median, 2),
            "memcpy_gb_per_s": round(self.copied / 1e9 / statistics.median(memcpy), 2),
            "share_of_memcpy": round(statistics.median(shares), 3),
            "peak_extra_mb_per_rank": round(extra / 1e6, 1),
        }


def main() -> None:
    args = parse_arguments()
    from mindrlhf_lite.reshard.transports import CollectiveTransport, SharedMemoryTransport
    from mindrlhf_lite.shapes.parameters import count_parameters

    bench = Bench(args)
    report: dict = {
        "src": args.src,
        "dst": args.dst,
        "model_mb": round(4 * count_parameters(bench.config) / 1e6, 1),
        "received_mb": round(bench.received / 1e6, 1),
        "copied_mb": round(bench.copied / 1e6, 1),
    }
    for transport in (SharedMemoryTransport(bench.mesh.world), CollectiveTransport(bench.mesh)):
        report[transport.name] = bench.measure(transport)
    if bench.mesh.is_main:
        print(json.dumps(report, indent=1), flush=True)


if __name__ == "__main__":
    run_joined_tool(main)
