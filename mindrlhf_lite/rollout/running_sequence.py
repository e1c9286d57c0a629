"""One completion that an engine is at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mindrlhf_lite.rollout.host_draw import TokenHistory
from mindrlhf_lite.turns import Restart
from mindrlhf_lite.types import Completion, FinishReason


@dataclass
class RunningSequence:
    """One completion being generated."""

    request: int
    sample: int
    prompt_ids: tuple[int, ...]
    uniforms: np.ndarray
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    engine_logprobs: list[float] = field(default_factory=list)
    history: TokenHistory | None = None  # where the sampler needs it
    written: list[bool] = field(default_factory=list)
    restarts: list[Restart] = field(default_factory=list)
    turn_start: int = 0
    reason: FinishReason | None = None  # why its turn is over: it waits for what comes next

    def go_on_with(self, token_ids: Sequence[int]) -> None:
        """Another turn begins behind them."""
        for token in token_ids:
            self.append(token, 0.0, 0.0, is_drawn=False)
        self.reason, self.turn_start = None, len(self.token_ids)

    def restart(self, prompt_ids: Sequence[int]) -> None:
        """Another turn begins behind another prompt."""
        self.restarts.append(Restart(len(self.token_ids), tuple(prompt_ids)))
        if self.history is not None:
            for token in prompt_ids:
                self.history.read(token)
        self.reason, self.turn_start = None, len(self.token_ids)

    @property
    def context(self) -> tuple[int, ...]:
        """All that the next token depends on."""
        if not self.restarts:
            return (*self.prompt_ids, *self.token_ids)
        return (*self.restarts[-1].prompt_ids, *self.token_ids[self.restarts[-1].start :])

    def append(self, token: int, logprob: float, engine_logprob: float, is_drawn: bool) -> None:
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        self.engine_logprobs.append(engine_logprob)
        self.written.append(is_drawn)
        if self.history is not None:
            (self.history.append if is_drawn else self.history.read)(token)

    def completion(self) -> Completion:
        assert self.reason is not None
        logprobs, engine_logprobs = np.array(self.logprobs, np.float32), np.array(self.engine_logprobs, np.float32)
        written = None if all(self.written) else np.array(self.written, bool)
        of_tokens = (tuple(self.token_ids), logprobs, engine_logprobs)
        return Completion(*of_tokens, self.reason, written, restarts=tuple(self.restarts))
