"""A step's metrics: what all ranks' updates and completions say, and what optional parts add. Keys: docs/metrics.md."""

from __future__ import annotations

from collections.abc import Sequence

from mindrlhf_lite.data.curriculum import CurriculumSampler
from mindrlhf_lite.learner.statistics import UpdateCounts
from mindrlhf_lite.observe.host_monitor import HostMonitor
from mindrlhf_lite.parallel.mesh import gather_objects
from mindrlhf_lite.reshard.executor import Moved
from mindrlhf_lite.trainer.assembly import GrpoRun
from mindrlhf_lite.types import ScoredGroup


def step_metrics(
    run: GrpoRun,
    monitor: HostMonitor,
    step: int,
    scored: Sequence[ScoredGroup],
    counts: UpdateCounts,
    moved: Moved,
    reward_kl: float,
) -> dict[str, float]:
    """Every rank calls it. Args: reward_kl: mean KL of a token in the reward."""
    seconds, traffic = run.clock.take()
    collected = run.report.collect(scored, counts, moved, seconds, traffic, run.roles.reshard_bound_bytes)
    return {
        "epoch": run.state.sampler.epochs,
        **collected,
        **_of_optional_parts(run, reward_kl),
        **_of_hosts(run, monitor, step),
    }


def _of_optional_parts(run: GrpoRun, reward_kl: float) -> dict[str, float]:
    rl, values = run.config.rl_config, dict[str, float]()
    if isinstance(run.state.sampler, CurriculumSampler):
        values |= run.state.sampler.metrics
    if rl.kl_in_reward:
        values["reward/kl"] = reward_kl
    if run.state.kl.is_adaptive:
        values["policy/kl_coefficient"] = run.state.kl.value
    if rl.dynamic_sampling.enabled:
        values["sampling/attempts"] = float(run.collection.num_attempts)
        values["sampling/drawn_groups"] = float(run.collection.num_drawn)
    return values


def _of_hosts(run: GrpoRun, monitor: HostMonitor, step: int) -> dict[str, float]:
    """What the host monitors saw: the largest of all ranks."""
    ranks = gather_objects(run.mesh.world, monitor.take(step)) if monitor.has_metrics else [{}]
    return {key: max(values[key] for values in ranks) for key in ranks[0]}
