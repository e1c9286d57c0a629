"""How a run is saved, and how it ends: after its last step, early, or stopped so that it can go on."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from mindrlhf_lite.commands.signals import asks_to_stop
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.observe.console import Console
from mindrlhf_lite.observe.host_monitor import HostMonitor, MemoryIsShort, Usage
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.roles.models import TrainedRoles
from mindrlhf_lite.trainer.assembly import GrpoRun
from mindrlhf_lite.trainer.best import best_of, by_step, evaluations_without_gain
from mindrlhf_lite.trainer.export import Export
from mindrlhf_lite.trainer.persistence import Persistence
from mindrlhf_lite.trainer.run_state import RunState


class RunToEnd(Protocol):
    """What every kind of run has."""

    mesh: Mesh
    tokenizer: Tokenizer
    state: RunState
    persistence: Persistence
    first_step: int
    last_step: int

    @property
    def config(self) -> Config: ...

    @property
    def roles(self) -> TrainedRoles: ...

    @property
    def report(self) -> StoppedReport: ...


class StoppedReport(Protocol):
    @property
    def console(self) -> Console: ...

    def stopped(self, step: int, why: str) -> None: ...


class Stops:
    """Checkpoints, early ends and exports of any run; every rank calls it."""

    def __init__(self, run: RunToEnd, monitor: HostMonitor):
        self._run, self._monitor = run, monitor

    def save(self, step: int) -> None:
        self._run.report.console.phase("save")
        self._run.persistence.save(step, self._run.state)

    def is_asked_to_stop(self) -> bool:
        """Whether any rank was; with rl_config.on_sigterm=save only."""
        saves = self._run.config.rl_config.on_sigterm == "save"
        return saves and any(gather_objects(self._run.mesh.world, asks_to_stop()))

    def stop_before_memory_is_short(self, step: int) -> None:
        """Raises MemoryIsShort, after a checkpoint, where a rank's host monitor says so."""
        run = self._run
        if not run.config.monitor_config.host_memory_protection:
            return
        exceeded = gather_objects(run.mesh.world, self._monitor.exceeded(), Usage | None)
        found = [usage for usage in exceeded if usage is not None]
        if found and step < run.last_step:
            self.stop(step, "stopped to keep clear of the memory's end")
            raise MemoryIsShort(self._monitor.message(max(found, key=lambda usage: usage.share)))

    def stop(self, step: int, why: str) -> None:
        """Ends the run early, so that it can go on."""
        run = self._run
        if not run.persistence.is_due_after(step, run.last_step):
            self.save(step)
        self._close_processes()
        run.roles.residency.close()
        run.report.stopped(step, why)

    def _close_processes(self) -> None:
        """What a run has started besides."""

    def export(self, name: str) -> None:
        """Writes the model to OUTPUT/name."""
        run = self._run
        folder, dtype = Path(run.config.rl_config.output_dir) / name, run.config.rl_config.save_hf_dtype
        max_weight = run.config.monitor_config.health.max_weight
        base = run.config.actor_config.load
        Export(run.roles, run.mesh, run.tokenizer, run.persistence.end_token_ids, dtype, max_weight, base).run(folder)


class Ending(Stops):
    """Of a GRPO run."""

    _run: GrpoRun

    def __init__(self, run: GrpoRun, monitor: HostMonitor):
        super().__init__(run, monitor)

    def save_best(self, step: int) -> None:
        """Where it is asked for, the model of the best evaluation so far, if that is this step's."""
        found = best_of(by_step(self._run.state.evaluations, self._run.last_step))
        if self._run.config.rl_config.save_best and found is not None and found.step == step:
            self._run.report.console.phase("save")
            self.export("best")

    def has_gained_nothing(self) -> bool:
        """Whether early stopping is asked for, and it is time."""
        stopping = self._run.config.rl_config.early_stopping
        found = by_step(self._run.state.evaluations, self._run.last_step)
        return 0 < stopping.patience <= evaluations_without_gain(found, stopping.min_delta)

    def finish(self, step: int) -> None:
        """After the last step, or an earlier one where early stopping ends the run."""
        run = self._run
        if step < run.last_step:
            self._finish_early(step)
        found = best_of(by_step(run.state.evaluations, step))
        run.report.console.phase("finish")
        self._close_processes()
        run.report.console.close()
        if run.config.rl_config.save_hf_model:
            self.export("hf")
        run.roles.residency.close()
        run.report.finish(step, run.state.evaluations, found, run.roles.residency.largest_phase_bytes, run.state.health)

    def _close_processes(self) -> None:
        self._run.reward.close()
        if self._run.stage is not None:
            self._run.stage.close()

    def _finish_early(self, step: int) -> None:
        run, stopping = self._run, self._run.config.rl_config.early_stopping
        run.report.console.say(
            f"early stopping after step {step}: {stopping.patience} evaluation(s) without a gain of more than "
            f"{stopping.min_delta:g}"
        )
        is_saved = step < run.first_step or run.persistence.is_due_after(step, run.last_step)
        if run.config.rl_config.save_ckpt_interval and not is_saved:
            self.save(step)
        run.state.evaluations["after"] = run.state.evaluations.pop(f"step_{step}")
