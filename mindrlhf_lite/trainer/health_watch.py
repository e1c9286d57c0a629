"""A run's health while it trains: metrics and warnings of every step, and its end where it must."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.observe.health import WEIGHT, Unhealthy, after_step, health_metrics, new_lines
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.trainer.persistence import Persistence
from mindrlhf_lite.trainer.run_state import RunState
from mindrlhf_lite.trainer.soundness import is_sound, largest_in_words, ruined
from mindrlhf_lite.types import TrainSequence


class HealthWatch:
    """Every rank calls it, and finds the same: it goes by metrics of all ranks. `state` has the history."""

    def __init__(self, config: Config, mesh: Mesh, state: RunState, persistence: Persistence, vocab_size: int):
        self.limits, self.mesh = config.monitor_config.health, mesh
        self.state, self.persistence = state, persistence
        self.load, self.log_vocab = config.actor_config.load, math.log(vocab_size)
        self._largest, self._must_stop = 0.0, False

    def begin(self, largest: float) -> None:
        """Notes what the run begins with. Args: largest: absolute weight of this rank's share.

        Raises:
            UserError: the model is not sound before it is trained.
        """
        largest, history = max(gather_objects(self.mesh.world, largest)), self.state.health
        if not self._is_sound(largest):
            problem = largest_in_words(largest, self.limits.max_weight)
            raise UserError(
                f"actor_config.load={self.load}: {problem}; give a sound model, or a higher limit where it is one"
            )
        self.state.health = history.begun_with({WEIGHT: largest})

    def look(self, step: int, metrics: dict[str, float], sequences: Sequence[TrainSequence]) -> list[str]:
        """Adds the step's health to its metrics. Returns lines for the console."""
        before, self._largest = self.state.health, metrics["health/max_weight"]
        metrics["health/taught_share"] = sum(bool(each.advantages.any()) for each in sequences) / len(sequences)
        after = after_step(before, step, metrics, self.limits, self.log_vocab)
        metrics.update(health_metrics(after, step))
        if not math.isfinite(self._largest):
            del metrics["health/max_weight"]  # JSON has no such number
        self.state.health = after
        self._must_stop = self.limits.on_unhealthy == "stop" and bool(after.failing(step))
        return [] if self.limits.on_unhealthy == "ignore" else new_lines(before, after, step)

    @property
    def must_end(self) -> bool:
        """Whether the run ends with this step."""
        return self._must_stop or not self._is_sound(self._largest)

    def end_if_it_must(self, step: int) -> None:
        """Raises:
        RuinedModel: the weights are not sound.
        Unhealthy: a check fails, and monitor_config.health.on_unhealthy is "stop".
        """
        if not self._is_sound(self._largest):
            raise ruined(f"after step {step}, {largest_in_words(self._largest, self.limits.max_weight)}")
        if self._must_stop:
            raise Unhealthy(self._why(step))

    def _is_sound(self, largest: float) -> bool:
        return is_sound(largest, self.limits.max_weight)

    def _why(self, step: int) -> str:
        failing = self.state.health.failing(step)
        since = min(each.first_step for each in failing)
        reasons = "; ".join(f"{each.check} since step {each.first_step}: {each.what}" for each in failing)
        return f"stopped after step {step}, unhealthy ({reasons}){self._what_works(since)}"

    def _what_works(self, since: int) -> str:
        """About checkpoints that a check failed at already, where there are any."""
        late = ", ".join(f"step_{each}" for each in self.persistence.made_since(since))
        before = max(set(self.persistence.store.steps()) - set(self.persistence.made_since(since)), default=None)
        if not late:
            return ""
        then = "none is from before" if before is None else f"remove them to go on from step_{before}"
        return f"; of the checkpoints {late} came after it began: {then}"
