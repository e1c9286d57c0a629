"""A Python profile of chosen steps, for `python -m pstats` or snakeviz; one file a rank."""

from __future__ import annotations

import cProfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from mindrlhf_lite.config.schema import ProfilerConfig


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
