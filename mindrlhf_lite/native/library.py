"""Which compiled library this process uses, if any; it is checked before its first use."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from mindrlhf_lite.native.build import isas_of_this_machine, library_file

ISA_VARIABLE = "MINDRLHF_NATIVE_ISA"  # forces a kind of processor, for tests and benchmarks
_FEATURES = {"avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"}, "avx2": {"avx2", "fma", "bmi2"}}


@dataclass(frozen=True)
class Library:
    """`path` is empty where there is none, and `why_not` says why."""

    isa: str = ""
    path: str = ""
    why_not: str = ""


def features_of_this_cpu() -> set[str]:
    """Flags of the first processor, as Linux names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def isa_of_this_cpu() -> str:
    """The best that it has; "" for none."""
    if platform.machine() == "aarch64":
        return "neon"
    has = features_of_this_cpu()
    return next((isa for isa in isas_of_this_machine() if _FEATURES[isa] <= has), "")


@cache
def library() -> Library:
    """Loads and checks it at the first call. Call it after MindSpore is imported, whose oneDNN it uses."""
    isa = os.environ.get(ISA_VARIABLE) or isa_of_this_cpu()
    if isa not in isas_of_this_machine():
        return Library(why_not=f"none for this processor ({isa or platform.machine()})")
    path = library_file(isa)
    if not path.is_file():
        return Library(why_not="not built (python -m mindrlhf_lite.native.build)")
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        return Library(why_not=str(error))
    if loaded.native_set_up(1, 0):
        return Library(why_not="MindSpore's oneDNN was not found")
    wrong = _first_wrong(loaded)
    return Library(why_not=f"{wrong} is wrong here") if wrong else Library(isa, str(path))


def threads_of_a_rank() -> int:
    """OMP_NUM_THREADS, or this rank's share of the processors that the process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    share = len(os.sched_getaffinity(0)) // max(1, int(os.environ.get("MS_WORKER_NUM", "1")))
    return max(1, int(given) if given.isdigit() else share)


def set_up(products: str = "float32", num_threads: int = 0) -> None:
    """Of this process, where there is a library. Args: products: what large ones multiply in, float32 or bfloat16;
    num_threads: 0: `threads_of_a_rank`.
    """
    if path := library().path:
        ctypes.CDLL(path).native_set_up(num_threads or threads_of_a_rank(), products == "bfloat16")


def product_gflops(rows: int = 1024, size: int = 1024, turns: int = 10) -> float:
    """GFLOP/s of products [rows, size] x [size, size] as they are set up, the best of several turns."""
    loaded, numbers = ctypes.CDLL(library().path), np.random.default_rng(0)
    x, weight = (numbers.standard_normal((count, size)).astype(np.float32) for count in (rows, size))
    y, seconds = np.empty((rows, size), np.float32), []
    for _ in range(turns):
        start = time.perf_counter()
        call(loaded, "product_input_gradient", x, weight, y)  # the one that does not keep rows apart
        seconds.append(time.perf_counter() - start)
    return 2 * rows * size**2 / min(seconds) / 1e9


def call(loaded: ctypes.CDLL, name: str, *arrays: np.ndarray) -> int:
    """A function of the library on numpy arrays, inputs then outputs, as MindSpore would call it."""
    count = len(arrays)
    shapes = [(ctypes.c_int64 * max(1, array.ndim))(*array.shape) for array in arrays]
    return getattr(loaded, name)(
        count,
        (ctypes.c_void_p * count)(*(array.ctypes.data for array in arrays)),
        (ctypes.c_int * count)(*(array.ndim for array in arrays)),
        (ctypes.POINTER(ctypes.c_int64) * count)(*(ctypes.cast(s, ctypes.POINTER(ctypes.c_int64)) for s in shapes)),
        None,
        None,
        None,
    )


def _first_wrong(loaded: ctypes.CDLL) -> str:
    """The first function of a few that does not give what numpy does; "" where all do."""
    numbers = np.random.default_rng(0)
    x, weight, gain = (numbers.standard_normal(shape).astype(np.float32) for shape in ((5, 40), (24, 40), (40,)))
    eps = np.full(1, 1e-6, np.float32)
    gate, up = x[:, :24].copy(), x[:, 16:].copy()
    spans = np.array([[0, 0, 0, i + 1] for i in range(5)], np.int32)
    scores = np.where(np.tri(5, dtype=bool), x[:, :8] @ x[:, 8:16].T, -np.inf)
    shares = np.exp(scores - scores.max(1, keepdims=True))
    cases = {
        "product": ((x, weight), x @ weight.T),
        "rms_norm": ((x, gain, eps), x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-6) * gain),
        "gated": ((gate, up), gate / (1 + np.exp(-gate)) * up),
        "packed_attention": (
            (x[:, :8].copy(), x[:, 8:16].copy(), x[:, 16:24].copy(), spans, np.zeros(8, np.float32)),
            shares / shares.sum(1, keepdims=True) @ x[:, 16:24],
        ),
    }
    columns = np.zeros((40, 16), np.float32)
    columns[:, :5] = x.T
    stream, own = columns[:5].copy(), [weight[:, :5].copy(), weight[:, 5:10].copy(), weight[:, 10:15].T.copy()]
    normed = stream / np.sqrt((stream**2).mean(0) + 1e-6)
    gates, ups = own[0] @ normed, own[1] @ normed
    cases["columns"] = ((x,), columns)
    cases["mlp_step"] = (
        (stream, np.ones(5, np.float32), *own, np.array([1e-6, 1, 0], np.float32), *[np.zeros(1, np.float32)] * 6),
        stream + own[2] @ (gates / (1 + np.exp(-gates)) * ups),
    )
    for name, (inputs, expected) in cases.items():
        outputs = [np.zeros(expected.shape, np.float32)] + [np.zeros((5, 1), np.float32)] * (name == "packed_attention")
        status = call(loaded, name, *inputs, *outputs)
        if status != 0 or not np.allclose(outputs[0], expected, rtol=1e-4, atol=1e-5):
            return name
    return ""
