"""What a step is estimated to take on devices, in words."""

from __future__ import annotations

from mindrlhf_lite.config.model_file import shape_of_actor
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.stages import StageConfig
from mindrlhf_lite.estimate.devices import CPU, Device
from mindrlhf_lite.estimate.step import work_of_step
from mindrlhf_lite.launch.command_line import Command
from mindrlhf_lite.launch.of_host import device_of_rank


def estimate_lines(command: Command) -> list[str]:
    """Seconds by phase, and what they are made of; nothing for a CPU that was not measured, or for a run on rows, whose
    lengths differ.
    """
    config, device = command.config, device_of_rank(command)
    if command.device is CPU or isinstance(config, StageConfig):
        return []
    work = work_of_step(config, shape_of_actor(config), command.num_ranks)
    seconds = {name: device.seconds_of(name, each) for name, each in work.items()}
    lines = [
        f"estimated seconds a step on {device.name}, with every completion of full length ({_figures(device)}):",
        "  phase         seconds    TFLOP   GB read   launches   messages   GB sent",
    ]
    for name, each in work.items():
        lines.append(
            f"  {name:<12} {seconds[name]:8.2f} {each.flops / 1e12:8.0f} {each.memory_bytes / 1e9:9.0f} "
            f"{each.launches:10.0f} {each.messages + each.collectives:10.0f} "
            f"{(each.sent_bytes + each.host_bytes) / 1e9:9.1f}"
        )
    lines.append(f"  {'step':<12} {sum(seconds.values()):8.2f}")
    return lines + vllm_note(config)


def vllm_note(config: Config) -> list[str]:
    is_vllm = config.generate_config.use_vllm
    return ["note: generation is estimated as the native engine's, not as vLLM's"] if is_vllm else []


def source_of(device: Device) -> str:
    """Where its figures are from. Args: device: of the command."""
    if device.factors:
        return "corrected by finished runs"
    if device is CPU:
        return "assumed; tools/calibrate.py measures this host"
    return "published and assumed, not measured" if device.overlaps else "measured by tools/calibrate.py"


def _figures(device: Device) -> str:
    launch = f"{device.launch_s * 1e6:.0f} us a launch"
    if not device.overlaps:
        return f"a rank: {device.flops / 1e9:.0f} GFLOPS, {device.memory_bytes_per_s / 1e9:.1f} GB/s, {launch}"
    return (
        f"published figures: {device.flops / 1e12:.0f} TFLOPS, {device.memory_bytes_per_s / 1e12:g} TB/s; assumed: "
        f"{launch}; {'corrected by finished runs' if device.factors else 'not measured'}"
    )
