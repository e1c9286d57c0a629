"""context: the device and MindSpore's own settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.config.setting import FREE, NOT_NEGATIVE, POSITIVE, ROUNDING, setting


@dataclass(frozen=True)
class JitConfig:
    jit_level: str = setting("", "MindSpore: how graphs are compiled (Ascend)", ("", "O0", "O1", "O2"))


@dataclass(frozen=True)
class AscendConfig:
    precision_mode: str = setting(
        "",
        "MindSpore: types that Ascend's kernels may fall back to",
        (
            "",
            "force_fp16",
            "allow_fp32_to_fp16",
            "allow_mix_precision",
            "must_keep_origin_dtype",
            "force_fp32",
            "allow_fp32_to_bf16",
            "allow_mix_precision_fp16",
            "allow_mix_precision_bf16",
        ),
    )


@dataclass(frozen=True)
class ContextConfig:
    device_target: str = setting("CPU", "device (Ascend: compiled only by our tests)", ("CPU", "Ascend"))
    num_threads: int = setting(
        0,
        "threads of a rank that dispatch operators; 0: one on CPU, the fastest there; MindSpore's default elsewhere",
        bounds=NOT_NEGATIVE,
        unit="threads",
        resume=FREE,
    )
    fused_kernels: bool = setting(
        True,
        "Ascend, with a compute_dtype below float32: one kernel for norm, rotary embedding, gated MLP and attention "
        "each (compiled only by our tests); CPU has none",
    )
    native_kernels: str = setting(
        "auto",
        "CPU, float32: operators in C++ for layers, head, decoding and optimizer; auto: where they are built and this "
        "processor has them; off: graphs of MindSpore's operators",
        ("auto", "off"),
        resume=ROUNDING,
    )
    cpu_products: str = setting(
        "float32",
        "CPU, with native kernels: what large matrix products multiply in, where the processor can; sums are float32",
        ("float32", "bfloat16"),
    )
    deterministic: bool = setting(
        True,
        "kernels and collectives of Ascend that give the same bits every time, as an exact resume needs; CPU's do; it "
        "costs speed: sums in a fixed order, and reductions between ranks in no faster one (tools/ascend_kit.sh "
        "measures it)",
    )
    max_call_depth: int = setting(10_000, "MindSpore: most calls within calls of a graph", bounds=POSITIVE, resume=FREE)
    max_device_memory: str = setting(
        "", "MindSpore: memory of a device that it may take, such as 58GB; empty: all", resume=FREE
    )
    memory_optimize_level: str = setting(
        "", "MindSpore: how hard it plans memory of a graph", ("", "O0", "O1"), resume=FREE
    )
    save_graphs: bool = setting(False, "MindSpore: write the graphs that it compiles", resume=FREE)
    save_graphs_path: str = setting("./graph", "MindSpore: folder for them, one below it a rank", resume=FREE)
    jit_config: JitConfig = field(default_factory=JitConfig)
    ascend_config: AscendConfig = field(default_factory=AscendConfig)
