"""environment_config: what the policy acts in, where a completion has several turns."""

from __future__ import annotations

from dataclasses import dataclass

from mindrlhf_lite.config.setting import FREE, NOT_NEGATIVE, POSITIVE, setting
from mindrlhf_lite.episodes.calls import FORMATS


@dataclass(frozen=True)
class EnvironmentConfig:
    environment: str = setting(
        "",
        "what answers the policy between turns: guess_number, gymnasium, or a class of your own (FILE.py:Class, or a "
        "dotted path); empty: nothing, or tools",
    )
    tools: list[str] = setting(
        [],
        "tools that the policy may call: calculator, python, search, or functions of your own, as verifiers are named",
    )
    call_format: str = setting("hermes", "how the policy writes a call", tuple(FORMATS))
    max_turns: int = setting(8, "most turns of an episode", bounds=POSITIVE, unit="turns")
    max_turn_tokens: int = setting(
        0,
        "most tokens that the policy writes in a turn; 0: what is left. All turns with what is answered have "
        "sampling_config.max_tokens",
        bounds=NOT_NEGATIVE,
        unit="tokens",
    )
    arguments: list[str] = setting([], "of the environment, NAME=VALUE each, as YAML has values")
    step_timeout_s: float = setting(
        30.0, "seconds that a reset, or a step, may take", bounds=POSITIVE, unit="s", resume=FREE
    )
    memory_gb: float = setting(
        4.0, "memory that an environment's process may take", bounds=POSITIVE, unit="GiB", resume=FREE
    )
    on_failure: str = setting(
        "leave_out",
        "an environment that raises, hangs or dies: leave_out takes its completion out of its group (many end the "
        "run), end ends the run",
        ("leave_out", "end"),
        resume=FREE,
    )
    on_changed_past: str = setting(
        "go_on",
        "a chat template that changes earlier answers (it cuts out thoughts): go_on keeps what was sampled, "
        "new_sample begins a further training sample of the completion behind what is rendered then, refuse ends the "
        "run",
        ("go_on", "new_sample", "refuse"),
    )

    @property
    def is_used(self) -> bool:
        """Whether completions have several turns."""
        return bool(self.environment or self.tools)
