"""One of four ranks of the reshard tests: both transports between real processes. Argument: an empty folder, the
working directory.
"""

import ctypes
import gc
import json
import os
import stat
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindspore import Parameter, ParameterTuple, Tensor, jit, nn, ops

from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.observe.host import peak_rss_gb, reset_peak_rss, rss_gb
from mindrlhf_lite.parallel.layout import box_reader, buffers_of_rank, fill_buffers, parse_strategy
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.reshard.executor import Resharder, ResidentSource
from mindrlhf_lite.reshard.plan import make_plan
from mindrlhf_lite.reshard.transports import CollectiveTransport, SharedMemoryTransport
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs

TIED = ModelConfig(271, 32, 48, 3, 4, 2, tie_word_embeddings=True)
UNTIED = ModelConfig(271, 32, 48, 3, 4, 2, tie_word_embeddings=False)
CASES = [
    (TIED, "dp=1,tp=2,pp=2,layers=1/2", "dp=2,tp=2"),
    (UNTIED, "dp=1,tp=4", "dp=4,tp=1"),
    (UNTIED, "dp=2,tp=1,pp=2,zero=1", "dp=1,tp=4"),
]
BUCKET = 16384  # bytes: each rank's share takes several
LARGE = ModelConfig(16384, 512, 2048, 6, 8, 4, tie_word_embeddings=False)  # 152 MB


class Graph(nn.Cell):
    """A compiled graph over parameters, as the rollout engine's are."""

    def __init__(self, parameters):
        super().__init__(auto_prefix=False)
        self.held = ParameterTuple(parameters)

    @jit
    def construct(self):
        outputs = ()
        for parameter in self.held:
            outputs += (parameter * 1.0,)
        return outputs


class FlipsABit(SharedMemoryTransport):
    """Breaks one number on its way into rank 1."""

    rank = 0

    def receive(self, pieces, sender, outs):
        super().receive(pieces, sender, outs)
        if self.rank == 1 and pieces:
            outs[0].reshape(-1)[:1].view(np.uint32)[...] ^= 1


def random_tensors(config, seed):
    rng = np.random.default_rng(seed)
    return {spec.name: rng.standard_normal(spec.shape).astype(np.float32) for spec in parameter_specs(config)}


def shards(config, strategy, rank, seed):
    return fill_buffers(buffers_of_rank(config, strategy, rank), box_reader(random_tensors(config, seed)))


def parameters(arrays):
    return {name: Parameter(Tensor(array.copy()), name=name, requires_grad=False) for name, array in arrays.items()}


def open_files():
    """Regular files; a collective may open sockets."""
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(link) for link in links if link.exists() and stat.S_ISREG(link.stat().st_mode))


def check_values(mesh, transports, written):
    for config, source_text, destination_text in CASES:
        source, destination = (parse_strategy(text, text, config) for text in (source_text, destination_text))
        plan = make_plan(config, source, destination)
        weights = parameters(shards(config, source, mesh.rank, 0))
        targets = parameters(
            {name: np.zeros_like(array) for name, array in shards(config, destination, mesh.rank, 0).items()}
        )
        resharders = [Resharder(plan, mesh.rank, mesh.world, targets, transport, BUCKET) for transport in transports]
        early, late = Graph(targets.values()), Graph(targets.values())
        early()  # compiled, and run, before any weights are there
        for turn in range(3):  # the transports take turns on the same parameters
            for name, array in shards(config, source, mesh.rank, turn).items():
                ops.assign(weights[name], Tensor(array))
            before = open_files()
            written.clear()
            moved = resharders[turn % 2].run(ResidentSource(weights))
            assert not written, written
            assert open_files() == before, (open_files(), before)
            expected = shards(config, destination, mesh.rank, turn)
            assert moved.copied_bytes <= sum(array.nbytes for array in expected.values())
            for graph in (early, late):
                for (name, array), seen in zip(expected.items(), graph(), strict=True):
                    assert (targets[name].asnumpy() == array).all(), (destination_text, turn, name)
                    assert (seen.asnumpy() == array).all(), ("compiled graph", destination_text, turn, name)


def check_types(mesh, transports):
    """Between roles that store different types, and between two that store float16: values, and bytes."""
    config, source_text, destination_text = CASES[0]
    source, destination = (parse_strategy(text, text, config) for text in (source_text, destination_text))
    plan = make_plan(config, source, destination)
    exact, low, half = Precision.here("float32"), Precision.here("bfloat16"), Precision.here("float16")
    for pair in ((exact, half), (exact, low), (half, exact), (half, half), (low, half)):
        weights, targets = (
            {name: Parameter(p.stored(a), name=name, requires_grad=False) for name, a in arrays.items()}
            for p, arrays in zip(pair, (shards(config, s, mesh.rank, 0) for s in (source, destination)))
        )
        for transport in transports:
            for target in targets.values():
                ops.assign(target, ops.zeros_like(target))
            moved = Resharder(plan, mesh.rank, mesh.world, targets, transport, BUCKET, pair).run(
                ResidentSource(weights)
            )
            assert moved.received_bytes * 4 == plan.received_bytes[mesh.rank] * targets[next(iter(targets))].itemsize
            for name, array in shards(config, destination, mesh.rank, 0).items():
                wanted = pair[1].rounded(pair[0].rounded(array).astype(np.float32))
                assert targets[name].asnumpy().dtype == wanted.dtype, (pair, transport.name)
                assert (targets[name].asnumpy() == wanted).all(), (pair, transport.name, name)


def check_checksums(mesh):
    config, source_text, destination_text = CASES[0]
    source, destination = (parse_strategy(text, text, config) for text in (source_text, destination_text))
    weights, targets = (
        parameters(shards(config, source, mesh.rank, 0)),
        parameters(shards(config, destination, mesh.rank, 1)),
    )
    transport = FlipsABit(mesh.world)
    transport.rank = mesh.rank
    resharder = Resharder(make_plan(config, source, destination), mesh.rank, mesh.world, targets, transport)
    try:
        resharder.run(ResidentSource(weights))
    except RuntimeError as error:
        assert "what rank 1 received from rank" in str(error) and "differs from what was sent" in str(error)
    else:
        raise AssertionError("a broken number was not noticed")
    resharder.run(ResidentSource(weights), is_checked=False)


def check_memory(mesh, transports):
    source, destination = (parse_strategy(text, text, LARGE) for text in ("dp=1,tp=2,pp=2", "dp=2,tp=2"))
    weights = parameters({b.name: np.ones(b.shape, np.float32) for b in buffers_of_rank(LARGE, source, mesh.rank)})
    targets = parameters({b.name: np.ones(b.shape, np.float32) for b in buffers_of_rank(LARGE, destination, mesh.rank)})
    plan, bucket, extra = make_plan(LARGE, source, destination), 8 << 20, {}
    for transport in transports:
        resharder = Resharder(plan, mesh.rank, mesh.world, targets, transport, bucket)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what earlier runs have given back to the allocator must be counted again
        reset_peak_rss()
        before = rss_gb()
        resharder.run(ResidentSource(weights))  # with checksums
        extra[transport.name] = max(gather_objects(mesh.world, peak_rss_gb() - before)) * 2**30
        assert extra[transport.name] <= 2 * bucket, extra
    if mesh.is_main:
        print(
            json.dumps(
                {"peak extra MB, buckets of 8.4 MB": {name: round(size / 1e6, 1) for name, size in extra.items()}}
            ),
            flush=True,
        )


def main():
    folder, written = sys.argv[1], []
    mesh = Mesh()
    transports = [SharedMemoryTransport(mesh.world), CollectiveTransport(mesh)]

    def watch(event, arguments):
        if event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(arguments[0])

    sys.addaudithook(watch)
    check_values(mesh, transports, written)
    check_types(mesh, transports)
    check_checksums(mesh)
    check_memory(mesh, transports)
    assert os.listdir(folder) == [], os.listdir(folder)


if __name__ == "__main__":
    main()
