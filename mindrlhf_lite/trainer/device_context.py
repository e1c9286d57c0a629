"""Settings of `context` that MindSpore takes as they are."""

from __future__ import annotations

from mindrlhf_lite.config.sections.context import ContextConfig


def apply_context(context: ContextConfig, rank: int) -> None:
    """Hands them to MindSpore; what only a device has is left out on CPU. Call it after the Mesh has chosen the device.

    Where graphs are written, every rank has a folder of its own: rank_N of `save_graphs_path`.
    """
    import mindspore as ms

    ms.set_context(max_call_depth=context.max_call_depth)
    if context.save_graphs:
        ms.set_context(save_graphs=1, save_graphs_path=f"{context.save_graphs_path}/rank_{rank}")
    if context.device_target == "CPU":
        return
    memory = {"max_size": context.max_device_memory, "optimize_level": context.memory_optimize_level}
    if given := {name: value for name, value in memory.items() if value}:
        ms.runtime.set_memory(**given)
    if context.jit_config.jit_level:
        ms.set_context(jit_config={"jit_level": context.jit_config.jit_level})
    if context.ascend_config.precision_mode:
        ms.device_context.ascend.op_precision.precision_mode(context.ascend_config.precision_mode)
