"""monitor_config: the console, this host's memory, a run's health."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.config.setting import AT_MOST_ONE, BELOW_ONE, FREE, NOT_NEGATIVE, POSITIVE, SHARE, setting


@dataclass(frozen=True)
class HealthConfig:
    """When a run counts as unhealthy, and what is done then. A ruined model ends it in any case."""

    on_unhealthy: str = setting(
        "warn",
        "what a failing check does; warn: a line when it begins, stop: ends the run after the step, without saving it, "
        "ignore: nothing but metrics (health/...) and summary.json",
        ("warn", "stop", "ignore"),
        resume=FREE,
    )
    patience: int = setting(
        5,
        "steps in a row until a check fails; for so many, all rewards of every group may be equal",
        bounds=POSITIVE,
        resume=FREE,
    )
    min_grad_norm: float = setting(
        1e-7,
        "the gradient norm may not be this small where there is something to learn (advantages, or a KL in the loss)",
        bounds=NOT_NEGATIVE,
        resume=FREE,
    )
    min_entropy: float = setting(
        0.01, "share of the first step's entropy that must be left; 0: none", bounds=BELOW_ONE, resume=FREE
    )
    max_entropy: float = setting(
        0.5,
        "share of log(vocabulary) that the entropy may reach, where it did not begin above; 0: any",
        bounds=AT_MOST_ONE,
        resume=FREE,
    )
    max_kl: float = setting(
        2.0, "KL to the reference, in nats a token; 0: any", bounds=NOT_NEGATIVE, unit="nats", resume=FREE
    )
    max_truncated: float = setting(
        0.95, "share of the completions that end at max_tokens or seq_length; 0: any", bounds=AT_MOST_ONE, resume=FREE
    )
    max_weight_growth: float = setting(
        10.0,
        "what the largest absolute weight may be multiplied by; for this check one step is enough; 0: any",
        bounds=NOT_NEGATIVE,
        resume=FREE,
    )
    max_weight: float = setting(
        1e4,
        "a larger absolute weight, or one that is not finite, ruins the model: the run ends, and nothing is saved or "
        "exported; 0: any finite one will do",
        bounds=NOT_NEGATIVE,
        resume=FREE,
    )


@dataclass(frozen=True)
class MonitorConfig:
    progress_bar: bool = setting(True, "show a progress bar on the console", resume=FREE)
    print_interval: int = setting(1, "steps between metric lines on the console", bounds=POSITIVE, resume=FREE)
    plots: bool = setting(True, "write OUTPUT/plots at the end", resume=FREE)
    host_monitor_interval: float = setting(
        -1.0,
        "seconds between samples of this host's memory and processors (metrics host/...); -1: none",
        unit="s",
        resume=FREE,
    )
    host_monitor_steps: list[int] = setting([], "steps whose samples go into the metrics; empty: all", resume=FREE)
    host_memory_protection: bool = setting(
        False,
        "end the run, with a checkpoint, after a step in which the memory in use exceeded the threshold; at once where "
        "it is half the way from there to all of it",
        resume=FREE,
    )
    host_max_memory_threshold: float = setting(
        0.95, "share of the memory that this process can have (host, cgroup, ulimit -v)", bounds=SHARE, resume=FREE
    )
    health: HealthConfig = field(default_factory=HealthConfig)
