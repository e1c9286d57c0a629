"""What of a run's metrics a person should look at, while it goes on or afterwards: trends that come before a check of
health fails (observe/health.py), the streaks of those checks, and verifiers that fail.

Pure functions over rows of metrics.jsonl, by step. A metric that is missing, or not finite, is no trend; the latter is
a concern of its own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mindrlhf_lite.observe.health import CHECKS, ENTROPY

Row = Mapping[str, float]

WINDOW = 10  # steps of a mean
REWARD_STEPS = 50  # in which the reward should move
FIRST_ROWS, LAST_ROWS = WINDOW, REWARD_STEPS  # all that `trends` looks at

_FALLEN, _GROWN, _GROWN_BY = 0.1, 2.0, 0.5  # entropy: shares of that at first; nats
_KL_GROWN, _KL_LEAST = 3.0, 0.1  # times the window before; nats
_CUT_RISE, _CUT_LEAST = 0.05, 0.1  # shares of completions
_TAUGHT_LEAST = 0.1  # share of completions
_NEAR_BEST = 0.95  # share of the largest reward: no more is to be had

# what each says; values in braces
TEXTS = {
    "entropy_falls": "the entropy fell from {first:.3g} to {last:.3g} nats: the policy hardly explores any more",
    "entropy_grows": "the entropy grew from {first:.3g} to {last:.3g} nats: the policy drifts towards noise",
    "kl_grows": "the KL to the reference grew from {first:.3g} to {last:.3g} nats a token within {steps:.0f} steps",
    "reward_flat": "the reward did not rise in {steps:.0f} steps: mean {first:.3g}, then {last:.3g}",
    "reward_falls": "the reward fell in {steps:.0f} steps: mean {first:.3g}, then {last:.3g}",
    "few_taught": "only {last:.0%} of the completions had an advantage: nearly all groups have equal rewards",
    "truncation_rises": "completions cut off at the limit rose from {first:.0%} to {last:.0%}",
    "verifier_fails": "verifiers failed for {last:.1%} of the completions (error or timeout)",
    "environment_fails": "{count:.0f} environment(s) failed in {steps:.0f} steps",
    "not_finite": "{count:.0f} metric(s) are not finite",
    "dead_gradients": "the gradients are dead, though there is something to learn",
    "entropy_collapse": "the entropy collapsed",
    "entropy_runaway": "the entropy ran away: the policy is near noise",
    "kl_runaway": "the KL to the reference ran away",
    "equal_rewards": "all groups have equal rewards: nothing is learnt",
    "at_limit": "nearly all completions are cut off at the limit",
    "weight_growth": "the weights grew out of bounds",
}


@dataclass(frozen=True)
class Concern:
    """Example: Concern("verifier_fails", 11, 20, {"last": 0.25})"""

    kind: str  # of TEXTS
    first_step: int
    last_step: int
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return TEXTS[self.kind].format_map(self.values)


def _of(rows: Sequence[Row], *keys: str) -> list[tuple[int, float]]:
    """(step, value) of the first of the keys that a row has, where it is finite."""
    found = []
    for row in rows:
        value = next((row[key] for key in keys if key in row), math.nan)
        if math.isfinite(value):
            found.append((int(row["step"]), value))
    return found


def _mean(points: Sequence[tuple[int, float]]) -> float:
    return statistics.fmean(value for _, value in points)


def _between(kind: str, early: Sequence[tuple[int, float]], late: Sequence[tuple[int, float]]) -> Concern:
    """From the mean of some steps to that of later ones."""
    values = {"first": _mean(early), "last": _mean(late), "steps": float(len(early) + len(late))}
    return Concern(kind, late[0][0], late[-1][0], values)


def entropy_moves(rows: Sequence[Row]) -> Concern | None:
    """Last window against the first: below a tenth, or above twice as much and half a nat more."""
    points = _of(rows, ENTROPY)
    if len(points) < 2 * WINDOW:
        return None
    first, last = _mean(points[:WINDOW]), _mean(points[-WINDOW:])
    if last < _FALLEN * first:
        return _between("entropy_falls", points[:WINDOW], points[-WINDOW:])
    if last > max(_GROWN * first, first + _GROWN_BY):
        return _between("entropy_grows", points[:WINDOW], points[-WINDOW:])
    return None


def kl_grows(rows: Sequence[Row]) -> Concern | None:
    """Last window against the one before it: more than three times as much, and above a tenth of a nat."""
    points = _of(rows, "policy/kl", "reward/kl")[-2 * WINDOW :]
    if len(points) < 2 * WINDOW:
        return None
    early, late = points[:WINDOW], points[WINDOW:]
    return _between("kl_grows", early, late) if _mean(late) > max(_KL_LEAST, _KL_GROWN * _mean(early)) else None


def reward_does_not_rise(rows: Sequence[Row]) -> Concern | None:
    """The two halves of the last `REWARD_STEPS`: their means differ by less than two standard errors, or fall by more.
    Not where the mean is near the largest reward that was seen.
    """
    points = _of(rows, "reward/mean")[-REWARD_STEPS:]
    if len(points) < REWARD_STEPS:
        return None
    early, late = points[: REWARD_STEPS // 2], points[REWARD_STEPS // 2 :]
    spread = sum(statistics.variance(value for _, value in half) / len(half) for half in (early, late))
    gain, error = _mean(late) - _mean(early), math.sqrt(spread)
    best = max((value for _, value in _of(rows, "reward/max")), default=math.inf)
    if gain > 2 * error or (gain >= -2 * error and _mean(late) >= _NEAR_BEST * best):
        return None
    return _between("reward_falls" if gain < -2 * error else "reward_flat", early, late)


def few_are_taught(rows: Sequence[Row]) -> Concern | None:
    """Hardly a completion of the last window has an advantage. Not with a teacher, which needs none."""
    late = _of(rows, "health/taught_share")[-WINDOW:]
    if len(late) < WINDOW or "policy/teacher_kl" in rows[-1] or not _mean(late) < _TAUGHT_LEAST:
        return None
    return Concern("few_taught", late[0][0], late[-1][0], {"last": _mean(late)})


def truncation_rises(rows: Sequence[Row]) -> Concern | None:
    """Last window against the one before it: a twentieth more of the completions, and a tenth at least."""
    points = _of(rows, "completion/truncated")[-2 * WINDOW :]
    if len(points) < 2 * WINDOW:
        return None
    early, late = points[:WINDOW], points[WINDOW:]
    rises = _mean(late) >= max(_CUT_LEAST, _mean(early) + _CUT_RISE)
    return _between("truncation_rises", early, late) if rises else None


def verifier_fails(rows: Sequence[Row]) -> Concern | None:
    """Errors or timeouts in the last window: the first and the last step that had some, and the share in these."""
    late = rows[-WINDOW:]
    failed = [
        (int(row["step"]), share)
        for row in late
        if (share := row.get("reward/outcome/error", 0.0) + row.get("reward/outcome/timeout", 0.0)) > 0
    ]
    if not failed:
        return None
    return Concern("verifier_fails", failed[0][0], failed[-1][0], {"last": _mean(failed)})


def environment_fails(rows: Sequence[Row]) -> Concern | None:
    """Environments that raised, hung or died in the last window."""
    late = _of(rows, "episode/failures")[-WINDOW:]
    failed = [point for point in late if point[1] > 0]
    if not failed:
        return None
    values = {"count": sum(value for _, value in failed), "steps": float(len(late))}
    return Concern("environment_fails", failed[0][0], failed[-1][0], values)


def not_finite(rows: Sequence[Row]) -> Concern | None:
    """Metrics of the newest row that are NaN or infinite."""
    if not rows or not (count := sum(not math.isfinite(value) for value in rows[-1].values())):
        return None
    step = int(rows[-1]["step"])
    return Concern("not_finite", step, step, {"count": float(count)})


TRENDS: tuple[Callable[[Sequence[Row]], Concern | None], ...] = (
    not_finite,
    verifier_fails,
    environment_fails,
    kl_grows,
    entropy_moves,
    few_are_taught,
    reward_does_not_rise,
    truncation_rises,
)


def trends(rows: Sequence[Row]) -> list[Concern]:
    """What the newest rows say. Args: rows: by step; the first `FIRST_ROWS` and the last `LAST_ROWS` are enough."""
    steps = [row for row in rows if row["step"] > 0]
    return [found for check in TRENDS if (found := check(steps)) is not None]


def streaks(counts: Sequence[tuple[int, float]], needed: int) -> list[tuple[int, int]]:
    """(first, last step) of each time that a check failed for at least `needed` steps.

    Args: counts: (step, value) of a metric health/CHECK, which counts the steps in a row so far. Example:
    [(1, 0), (2, 1), (3, 2), (4, 0)] with 2 is [(2, 3)]
    """
    found: dict[int, int] = {}
    for step, count in counts:
        if math.isfinite(count) and count >= needed:
            found[step - int(count) + 1] = step
    return list(found.items())


def health_concerns(counts: Mapping[str, Sequence[tuple[int, float]]], patience: int) -> list[Concern]:
    """Of the checks of health. Args: counts: (step, value) of health/CHECK by the check's name."""
    return [
        Concern(check.name, first, last)
        for check in CHECKS
        for first, last in streaks(counts.get(check.name, ()), patience if check.is_patient else 1)
    ]
