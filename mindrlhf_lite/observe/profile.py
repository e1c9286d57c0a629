"""Profiles of chosen steps: Python's, for `python -m pstats` or snakeviz, one file a rank; MindSpore's, a trace a
rank.
"""

from __future__ import annotations

import cProfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from mindrlhf_lite.config.sections.profiler import ProfilerConfig


class StepProfiler:
    """Profiles steps start_step..stop_step into FOLDER/rank_N.pstats when enabled; also those of a run that ends early.

    Example:
        with StepProfiler(config, folder, rank) as profiler:
            with profiler.step(1): ...
    """

    def __init__(self, config: ProfilerConfig, folder: Path, rank: int):
        self.config, self.path = config, folder / f"rank_{rank}.pstats"
        self._profile, self._has_data = cProfile.Profile(), False

    def __enter__(self) -> StepProfiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._write()

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        if not (self.config.enabled and self.config.start_step <= step <= self.config.stop_step):
            yield
            return
        self._has_data = True
        self._profile.enable()
        try:
            yield
        finally:
            self._profile.disable()
        if step == self.config.stop_step:
            self._write()

    def _write(self) -> None:
        if self._has_data:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._profile.dump_stats(self.path)


class DeviceTrace:
    """MindSpore's own profiler over steps profile_step_start up to profile_step_end, on chosen ranks; on every device.

    Writes FOLDER/rank_N/..._ascend_ms/ASCEND_PROFILER_OUTPUT/trace_view.json, which MindStudio Insight, Perfetto and
    chrome://tracing open, beside tables of operators.
    """

    def __init__(self, config: ProfilerConfig, folder: Path, rank: int):
        chosen = "all" in config.profile_ranks or str(rank) in config.profile_ranks
        self.config, self.folder = config, folder / f"rank_{rank}"
        self._is_on = config.profile and chosen
        self._profile: Any = None

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        if self._is_on and max(1, self.config.profile_step_start) <= step < self.config.profile_step_end:
            self._is_on = False  # one trace a run
            self._start()
        try:
            yield
        finally:
            if self._profile is not None and step + 1 >= self.config.profile_step_end:
                self.close()

    def _start(self) -> None:
        from mindspore import profiler

        config = self.config
        self.folder.mkdir(parents=True, exist_ok=True)
        kinds, levels = profiler.ProfilerActivity, profiler.ProfilerLevel
        wanted = ((kinds.CPU, config.profile_with_cpu), (kinds.NPU, config.profile_with_npu and _has_npu()))
        level = config.profile_level.removeprefix("level").strip("_")
        options = profiler._ExperimentalConfig(
            profiler_level=getattr(levels, f"Level{level.capitalize()}"), mstx=config.mstx and _has_npu()
        )
        self._profile = profiler.profile(
            activities=[kind for kind, is_wanted in wanted if is_wanted] or [kinds.CPU],
            with_stack=config.profile_with_stack,
            profile_memory=config.profile_with_memory and _has_npu(),
            start_profile=False,
            on_trace_ready=profiler.tensorboard_trace_handler(str(self.folder), analyse_flag=config.profile_analysis),
            experimental_config=options,
        )
        self._profile.start()

    def close(self) -> None:
        """Ends the trace, if one is under way, and writes it."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None


def _has_npu() -> bool:
    import mindspore as ms

    return ms.get_context("device_target") == "Ascend"
