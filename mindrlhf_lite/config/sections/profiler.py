"""profiler_config and msprobe_config: where time goes, and what tensors hold."""

from __future__ import annotations

from dataclasses import dataclass

from mindrlhf_lite.config.setting import FREE, NOT_NEGATIVE, POSITIVE, setting


@dataclass(frozen=True)
class ProfilerConfig:
    enabled: bool = setting(
        False, "write a Python profile of some steps to OUTPUT/profile, one file a rank", resume=FREE
    )
    start_step: int = setting(2, "first step profiled (the first step also compiles)", bounds=POSITIVE, resume=FREE)
    stop_step: int = setting(3, "last step profiled", resume=FREE)
    profile: bool = setting(
        False, "write a trace of MindSpore's own profiler: operators, their times and shapes", resume=FREE
    )
    profile_save_path: str = setting(
        "", "folder of the traces, one below it a rank; empty: OUTPUT/profiler", resume=FREE
    )
    profile_step_start: int = setting(2, "first step in the trace; 0: the first", bounds=NOT_NEGATIVE, resume=FREE)
    profile_step_end: int = setting(3, "the step before which the trace ends", bounds=POSITIVE, resume=FREE)
    profile_ranks: list[str] = setting(["all"], "ranks that write a trace, by number; all: every one", resume=FREE)
    profile_level: str = setting(
        "level1", "detail of what Ascend collects", ("none", "level_none", "level0", "level1", "level2"), resume=FREE
    )
    profile_with_memory: bool = setting(False, "memory of every operator (Ascend)", resume=FREE)
    profile_with_stack: bool = setting(False, "Python's call stacks", resume=FREE)
    profile_with_cpu: bool = setting(True, "what the host does", resume=FREE)
    profile_with_npu: bool = setting(True, "what an Ascend device does", resume=FREE)
    profile_analysis: bool = setting(
        True, "make readable files of the raw data when the trace ends; false: later, offline", resume=FREE
    )
    mstx: bool = setting(False, "marks of communication and data in the trace (Ascend)", resume=FREE)


@dataclass(frozen=True)
class MsprobeConfig:
    """Dumps for tools/compare_dumps.py; names of MindStudio's msprobe, as toolkits of the field use them."""

    msprobe: bool = setting(False, "write dumps: JSON lines, one file a step and rank", resume=FREE)
    dump_path: str = setting("", "folder of the dumps; empty: OUTPUT/dump", resume=FREE)
    key_data_dump: bool = setting(
        True, "tokens, rewards, advantages and logprobs of the step, as statistics and checksums", resume=FREE
    )
    configurations_dump: bool = setting(True, "the configuration and versions, once", resume=FREE)
    tensor_dump: bool = setting(
        True,
        "activations of every layer, gradients and weights, as statistics and checksums (copies them to the host)",
        resume=FREE,
    )
    dump_steps: list[int] = setting([], "steps that are dumped; empty: all", resume=FREE)
    dump_sequences: int = setting(4, "the step's first so many completions whose activations are dumped", resume=FREE)
