"""Residency: exact round trips, freed memory, illegal transitions, known states after failures, a full disk,
crashes.
"""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from helpers import ROOT, clean_environment
from mindspore import Parameter, Tensor, jit, mutable, nn, ops

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.roles import phases_of_run
from mindrlhf_lite.observe.host import rss_gb
from mindrlhf_lite.swap.phases import Phase
from mindrlhf_lite.swap.residency import Contents, Residency, State
from mindrlhf_lite.swap.stores import FileStore, HostStore

PHASES = {
    "train": Phase(changes=("actor", "gradients")),
    "score": Phase(needs=("reference",)),
    "reshard": Phase(reads_stored=("actor",), fills=("rollout",)),
    "generate": Phase(needs=("rollout",), fills=("cache",)),
}


def parameter(name, rows, seed=0):
    """Random bit patterns, not-a-numbers among them."""
    bits = np.random.default_rng(seed).integers(0, 2**32, (rows, 1024), np.uint32)
    return Parameter(Tensor(bits.view(np.float32)), name=name, requires_grad=False)


def bits(parameter):
    return parameter.asnumpy().view(np.uint32).copy()


@pytest.fixture(params=["file", "host"])
def residency(request, tmp_path):
    """Over the store of CPU, and over that of Ascend, whose parameters come back elsewhere in memory."""
    manager = Residency(PHASES, FileStore(tmp_path / "swap") if request.param == "file" else HostStore())
    yield manager
    manager.close()


@pytest.fixture
def file_residency(tmp_path):
    manager = Residency(PHASES, FileStore(tmp_path / "swap"))
    yield manager
    manager.close()


def test_round_trips_are_exact_and_memory_is_freed(file_residency, tmp_path):
    residency = file_residency
    actor, small = parameter("actor", 16384), parameter("small", 1)  # 64 MiB, and one page
    before, rss = [bits(actor), bits(small)], rss_gb()
    residency.add("actor", [actor, small], Contents.CHANGES)
    assert residency.state("actor") is State.STORED and rss - rss_gb() > 0.04
    for _ in range(2):
        with residency.phase("train"):
            assert residency.state("actor") is State.RESIDENT
            assert (bits(actor) == before[0]).all() and (bits(small) == before[1]).all()
        with residency.phase("generate"):
            assert residency.state("actor") is State.STORED and rss - rss_gb() > 0.04
    assert list((tmp_path / "swap").iterdir()) == []  # the spill file has no name


class Sum(nn.Cell):
    def __init__(self, weight):
        super().__init__(auto_prefix=False)
        self.weight = weight

    @jit
    def construct(self, x):
        return (self.weight * x).sum()


class SumOfArgument(nn.Cell):
    @jit
    def construct(self, x, weights):
        return (weights[0] * x).sum()


def test_compiled_graphs_find_what_comes_back_elsewhere():
    """Whether they hold the parameter, take it as an argument, or as a view that was made anew."""
    manager = Residency(PHASES, HostStore())
    weight = Parameter(Tensor(np.full((512, 512), 1.0, np.float32)), name="w", requires_grad=False)
    held, taken = Sum(weight), SumOfArgument()

    def totals():
        views = (weight,), (weight.view(256, -1),)
        return [float(held(Tensor(1.0)).asnumpy()), *(float(taken(Tensor(1.0), mutable(v)).asnumpy()) for v in views)]

    assert totals() == [512 * 512] * 3
    manager.add("actor", [weight], Contents.CHANGES)
    addresses, others = set(), []
    for turn in range(1, 4):
        with manager.phase("train"):
            addresses.add(weight.data_ptr())
            assert totals() == [turn * 512 * 512] * 3
            for write in (weight.copy_, lambda values: ops.assign(weight, values)):
                write(Tensor(np.full((512, 512), turn + 1.0, np.float32)))
                assert totals() == [(turn + 1) * 512 * 512] * 3
        with manager.phase("score"):  # something else takes the memory that was given back
            others.append(Tensor(np.full((512, 512), -1.0, np.float32)) + 0)
            others[-1].asnumpy()
    assert len(addresses) > 1
    manager.close()


def test_a_compiled_graph_sees_what_comes_back(file_residency):
    residency = file_residency
    weight = Parameter(Tensor(np.full((512, 512), 1.0, np.float32)), name="w", requires_grad=False)
    total = Sum(weight)
    assert float(total(Tensor(1.0)).asnumpy()) == 512 * 512
    residency.add("actor", [weight], Contents.CHANGES)
    with residency.phase("train"):
        assert float(total(Tensor(1.0)).asnumpy()) == 512 * 512
        weight[:] = Tensor(np.full((512, 512), 2.0, np.float32))
    with residency.phase("score"):
        assert float(total(Tensor(1.0)).asnumpy()) < 3e4  # gone but for the edges of pages
    with residency.phase("train"):
        assert float(total(Tensor(1.0)).asnumpy()) == 2 * 512 * 512


def test_what_changed_is_saved_and_what_is_frozen_is_saved_once(residency):
    actor, reference = parameter("actor", 256), parameter("reference", 256, 1)
    residency.add("actor", [actor], Contents.CHANGES)
    residency.add("reference", [reference], Contents.FROZEN)
    residency.take_traffic()
    with residency.phase("train"):
        actor[0:2] = Tensor(np.full((2, 1024), 5.0, np.float32))
        changed = bits(actor)
    with residency.phase("score"):
        pass
    mib = 1 << 20
    assert residency.take_traffic().num_bytes == 3 * mib  # actor in and out, reference in
    with residency.phase("train"):
        assert (bits(actor) == changed).all()
    assert residency.take_traffic().num_bytes == mib  # the reference was not written again
    source = residency.source("actor")
    out = np.empty((2, 3), np.float32)
    source.read("actor", (slice(0, 2), slice(5, 8)), out)
    assert (out == 5).all()


def test_what_was_given_back_comes_back_as_zeros(residency):
    """A KV cache, whose contents mean nothing, too: what is masked may not be infinite."""
    small = Parameter(Tensor(np.zeros((3, 100), np.float32)), name="s", requires_grad=False)
    cache = parameter("cache", 3)
    residency.add("gradients", [small], Contents.ZERO)
    residency.add("cache", [cache], Contents.SCRATCH)
    residency.add("rollout", [parameter("rollout", 1)], Contents.FROZEN)
    for _ in range(2):
        with residency.phase("train"):
            assert not small.asnumpy().any()
        with residency.phase("generate"):
            assert not cache.asnumpy().any()
            cache[:] = Tensor(np.full((3, 1024), np.nan, np.float32))
            cache.asnumpy()


def test_zero_groups_come_back_as_zeros(file_residency):
    residency = file_residency
    gradients = Parameter(Tensor(np.zeros((4096, 1024), np.float32)), name="g", requires_grad=False)
    rss = rss_gb()
    gradients[:] = Tensor(np.zeros((4096, 1024), np.float32))
    residency.add("gradients", [gradients], Contents.ZERO)
    with residency.phase("train"):
        assert not gradients.asnumpy().any()
    with residency.phase("score"):
        assert rss_gb() < rss + 0.01


def test_illegal_transitions_raise(residency):
    rollout = parameter("rollout", 16)
    residency.add("rollout", [rollout], Contents.REBUILT)
    with pytest.raises(ValueError, match="there already"):
        residency.add("rollout", [rollout], Contents.REBUILT)
    with pytest.raises(RuntimeError, match=r"unknown phase 'sleep'; phases: train, score"):
        residency.phase("sleep").__enter__()
    with pytest.raises(RuntimeError, match="needs group 'rollout', whose contents are gone"):
        residency.phase("generate").__enter__()
    with residency.phase("reshard"):
        with pytest.raises(RuntimeError, match="phase 'score' inside phase 'reshard'"):
            residency.phase("score").__enter__()
        rollout[:] = Tensor(np.full((16, 1024), 3.0, np.float32))
    with residency.phase("generate"):
        assert (rollout.asnumpy() == 3).all()
    with residency.phase("score"):
        pass
    with pytest.raises(RuntimeError, match="contents are gone"):  # evicted, and nobody has filled it since
        residency.phase("generate").__enter__()
    with pytest.raises(RuntimeError, match="no contents to read"):
        residency.source("rollout")


def test_a_failed_phase_leaves_a_known_state(residency):
    actor, rollout = parameter("actor", 64), parameter("rollout", 64)
    before = bits(actor)
    residency.add("actor", [actor], Contents.CHANGES)
    residency.add("rollout", [rollout], Contents.REBUILT)
    with pytest.raises(ZeroDivisionError), residency.phase("reshard"):
        raise ZeroDivisionError
    assert residency.state("rollout") is State.EMPTY and residency.state("actor") is State.STORED
    with pytest.raises(ZeroDivisionError), residency.phase("train"):
        raise ZeroDivisionError
    assert residency.state("actor") is State.RESIDENT and residency.current is None
    with residency.phase("reshard"), pytest.raises(RuntimeError):
        residency.phase("train").__enter__()
    with residency.phase("train"):
        assert (bits(actor) == before).all()


def test_prefetch_loads_ahead_within_the_peak(tmp_path):
    both = {
        "generate": Phase(needs=("rollout",)),
        "score": Phase(needs=("reference",)),
        "train": Phase(changes=("actor",)),
    }
    manager = Residency(both, FileStore(tmp_path))
    manager.add("actor", [parameter("actor", 512)], Contents.CHANGES)
    manager.add("rollout", [parameter("rollout", 200)], Contents.FROZEN)
    manager.add("reference", [parameter("reference", 256, 3)], Contents.FROZEN)
    with manager.phase("generate", then="score"):  # 200 + 256 <= 512 rows
        deadline = time.monotonic() + 10
        while manager.state("reference") is not State.RESIDENT and time.monotonic() < deadline:
            time.sleep(0.01)
        assert manager.state("reference") is State.RESIDENT
    with manager.phase("score", then="train"):  # 256 + 512 > 512: not ahead of time
        assert manager.state("rollout") is State.STORED
        assert threading.active_count() < 20 and manager.state("actor") is State.STORED
    with manager.phase("train"):
        assert manager.state("actor") is State.RESIDENT
    manager.close()


def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path):
    """A file size limit stands in for a full disk: the allocation fails as it would there."""
    code = f"""
        import resource, signal, sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        import numpy as np
        from mindspore import Parameter, Tensor
        from mindrlhf_lite.swap.phases import Phase
        from mindrlhf_lite.swap.residency import Contents, Residency, State
        from mindrlhf_lite.swap.stores import FileStore
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        manager = Residency({{"train": Phase(changes=("actor",))}}, FileStore({str(tmp_path)!r}))
        actor = Parameter(Tensor(np.full((1024, 1024), 7.0, np.float32)), name="actor")
        try:
            manager.add("actor", [actor], Contents.CHANGES)
        except OSError as error:
            print(error)
        assert (actor.asnumpy() == 7).all() and "actor" not in manager.groups
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=clean_environment()
    )
    assert result.returncode == 0, result.stderr
    assert (
        "no room to swap" in result.stdout and "swap_dir" in result.stdout and "No weights were lost" in result.stdout
    )
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_on_disk_after_kill_9(tmp_path):
    code = f"""
        import sys, time
        sys.path[:0] = [{str(ROOT)!r}]
        import numpy as np
        from mindspore import Parameter, Tensor
        from mindrlhf_lite.swap.stores import FileStore
        store, weight = FileStore({str(tmp_path)!r}), Parameter(Tensor(np.ones((1024, 1024), np.float32)), name="w")
        store.reserve([weight]); store.save([weight])
        print("saved", flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=clean_environment()
    )
    assert process.stdout.readline() == "saved\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("level", [0, 1])
def test_no_phase_of_a_step_has_both_sides_of_a_reshard_at_level_1(level):
    for name, phase in phases_of_run(build_config({"rl_config.reshard_mem_opt_level": level})).items():
        together = {"actor", "rollout"} <= set(phase.resident)
        assert together == (name == "reshard" and level == 0)
