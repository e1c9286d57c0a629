"""MindSpore's process-wide context: device, mode, threads, whether the device gives the same bits every time."""

from __future__ import annotations

import gc
import os


def skip_in_collections() -> None:
    """Leaves what there is by now, mostly modules, out of garbage collections. MindSpore makes one before every
    compilation, which looks at all of it: 0.1 s a graph, and several times that with vLLM and torch.
    """
    gc.collect()
    gc.freeze()


def set_process_context(device_target: str, num_threads: int, is_deterministic: bool) -> None:
    """Args as of `Mesh`."""
    import mindspore as ms

    skip_in_collections()
    if device_target != "CPU":
        # ranks compile and save for minutes while others wait in a collective
        os.environ.setdefault("HCCL_EXEC_TIMEOUT", "7200")
        # communicators are made after weights were loaded, which takes ranks more than its 120 s apart
        os.environ.setdefault("HCCL_CONNECT_TIMEOUT", "3600")
        if is_deterministic:
            os.environ.setdefault("HCCL_DETERMINISTIC", "true")
    ms.set_device(device_target)
    # graph mode runs a graph on the calling thread: in PyNative mode that thread spins on a queue meanwhile, which
    # took a third of two cores from the operators. 24 layers exceed the default call depth, 1000
    ms.set_context(mode=ms.GRAPH_MODE, max_call_depth=10_000)
    if device_target == "CPU":  # more dispatching threads than one do the same
        ms.set_context(runtime_num_threads=num_threads or 1)
    else:
        if num_threads:
            ms.set_context(runtime_num_threads=num_threads)
        ms.set_deterministic(is_deterministic)
