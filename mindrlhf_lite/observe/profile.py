"""A Python profile of chosen steps, for `python -m pstats` or snakeviz; one file a rank."""

from __future__ import annotations

import cProfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindrlhf_lite.config.schema import ProfilerConfig


class StepProfiler:
    """Profiles steps start_step..stop_step into FOLDER/rank_N.pstats when enabled."""

    def __init__(self, config: ProfilerConfig, folder: Path, rank: int):
        self.config, self.path = config, folder / f"rank_{rank}.pstats"
        self._profile = cProfile.Profile()

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        if not (self.config.enabled and self.config.start_step <= step <= self.config.stop_step):
            yield
            return
        self._profile.enable()
        yield
        self._profile.disable()
        if step == self.config.stop_step:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._profile.dump_stats(self.path)
