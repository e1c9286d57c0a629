"""Whether a run still learns, as data: a table of checks on a step's metrics, and how long each has failed.

A check sees the metrics of one step and what the run began with; it changes nothing. What must survive a resume is in
`History`, which a checkpoint keeps. Weights that are ruined end a run elsewhere (`trainer/soundness.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mindrlhf_lite.config.sections.monitor import HealthConfig


class Unhealthy(Exception):
    """A check failed, and the run was to stop then."""


ENTROPY, WEIGHT = "policy/entropy", "health/max_weight"  # metrics that are compared with those of the beginning
TEACHER_KL = "policy/teacher_kl"
_LIVE_KL = 0.01  # nats: a KL in the loss whose gradient is more than rounding


@dataclass(frozen=True)
class Sight:
    """What a check looks at.

    Example: Sight({"policy/entropy": 5.59}, {"policy/entropy": 0.15}, HealthConfig(), log_vocab=5.59)
    """

    row: Mapping[str, float]  # the step's metrics
    first: Mapping[str, float]  # ENTROPY and WEIGHT, as the run began
    limits: HealthConfig
    log_vocab: float  # nats: the entropy of a policy that knows nothing

    @property
    def has_trained(self) -> bool:
        return self.row["speed/trained_tokens_per_s"] > 0

    @property
    def kl(self) -> float:
        """Nats a token, in the loss or in the reward; 0 where there is none."""
        return self.row.get("policy/kl", self.row.get("reward/kl", 0.0))


@dataclass(frozen=True)
class HealthCheck:
    """A row of the table. `setting`: its threshold's name in monitor_config.health."""

    name: str
    setting: str
    fails: Callable[[Sight], bool]
    says: Callable[[Sight], str]
    is_patient: bool = True  # it must fail for `patience` steps in a row


def _gradients_are_dead(sight: Sight) -> bool:
    row = sight.row
    divergence = max(row.get("policy/kl", 0.0), row.get(TEACHER_KL, 0.0))
    has_to_learn = row["health/taught_share"] > 0 or divergence > _LIVE_KL
    return has_to_learn and not row.get("policy/overflows") and row["policy/grad_norm"] <= sight.limits.min_grad_norm


def _entropy_collapsed(sight: Sight) -> bool:
    return sight.has_trained and sight.row[ENTROPY] < sight.limits.min_entropy * sight.first[ENTROPY]


def _entropy_ran_away(sight: Sight) -> bool:
    highest = sight.limits.max_entropy * sight.log_vocab
    has_begun_below = highest > 0 and sight.first[ENTROPY] <= highest  # a random model begins above
    return sight.has_trained and has_begun_below and sight.row[ENTROPY] > highest


def _kl_ran_away(sight: Sight) -> bool:
    return 0 < sight.limits.max_kl < sight.kl


def _rewards_are_equal(sight: Sight) -> bool:
    if TEACHER_KL in sight.row:  # it teaches whatever they are
        return False
    return sight.row["health/taught_share"] == 0 or sight.row["reward/min"] == sight.row["reward/max"]


def _completions_are_cut(sight: Sight) -> bool:
    return 0 < sight.limits.max_truncated <= sight.row["completion/truncated"]


def _weights_grew(sight: Sight) -> bool:
    largest, first = sight.row[WEIGHT], sight.first[WEIGHT]
    return 0 < sight.limits.max_weight_growth * first < largest


CHECKS = (
    HealthCheck(
        "dead_gradients",
        "min_grad_norm",
        _gradients_are_dead,
        lambda sight: f"the gradient norm is {sight.row['policy/grad_norm']:g} though there is something to learn",
    ),
    HealthCheck(
        "entropy_collapse",
        "min_entropy",
        _entropy_collapsed,
        lambda sight: f"the entropy is {sight.row[ENTROPY]:.3g} nats, {sight.first[ENTROPY]:.3g} at first",
    ),
    HealthCheck(
        "entropy_runaway",
        "max_entropy",
        _entropy_ran_away,
        lambda sight: (
            f"the entropy is {sight.row[ENTROPY]:.3g} nats, {sight.first[ENTROPY]:.3g} at first; a "
            f"policy that knows nothing has {sight.log_vocab:.3g}"
        ),
    ),
    HealthCheck(
        "kl_runaway", "max_kl", _kl_ran_away, lambda sight: f"the KL to the reference is {sight.kl:.3g} nats a token"
    ),
    HealthCheck(
        "equal_rewards",
        "patience",
        _rewards_are_equal,
        lambda sight: f"all rewards of a group are equal (mean {sight.row['reward/mean']:.3g}): nothing is learnt",
    ),
    HealthCheck(
        "at_limit",
        "max_truncated",
        _completions_are_cut,
        lambda sight: f"max_tokens or seq_length cut off {sight.row['completion/truncated']:.0%} of the completions",
    ),
    HealthCheck(
        "weight_growth",
        "max_weight_growth",
        _weights_grew,
        lambda sight: f"the largest weight is {sight.row[WEIGHT]:.3g}, {sight.first[WEIGHT]:.3g} at first",
        is_patient=False,
    ),
)


@dataclass(frozen=True)
class Finding:
    """A check that failed for long enough. Example: Finding("kl_runaway", 12, 31, "the KL to the ... is 4 ...")"""

    check: str
    first_step: int  # in which it failed
    last_step: int  # so far
    what: str  # in the step that was one too many


@dataclass(frozen=True)
class History:
    """What a run's health is judged by, besides the metrics of the step at hand."""

    first: Mapping[str, float] = field(default_factory=dict)  # ENTROPY and WEIGHT, as far as they are known
    in_a_row: Mapping[str, int] = field(default_factory=dict)  # by check: steps up to the last one in which it failed
    found: tuple[Finding, ...] = ()

    def begun_with(self, values: Mapping[str, float]) -> History:
        """With ENTROPY or WEIGHT, where it is not known yet."""
        return replace(self, first={**values, **self.first})

    def failing(self, step: int) -> list[Finding]:
        """Those that last until `step`."""
        return [each for each in self.found if each.last_step == step]

    def failing_since(self, step: int) -> int | None:
        """The first step of those in which a check has failed up to `step`, if only in this one; None: all is well."""
        return min((step - count + 1 for count in self.in_a_row.values() if count), default=None)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> History:
        """From `as_dict`; empty from the nothing that older checkpoints have."""
        found = tuple(Finding(**each) for each in values.get("found", ()))
        return History(values.get("first", {}), values.get("in_a_row", {}), found)


def after_step(
    history: History, step: int, row: Mapping[str, float], limits: HealthConfig, log_vocab: float
) -> History:
    """The history with a step's metrics. Args: row: with `taught_share` and `max_weight`."""
    if row["speed/trained_tokens_per_s"] > 0:
        history = history.begun_with({ENTROPY: row[ENTROPY]})
    history = history.begun_with({WEIGHT: row[WEIGHT]})
    sight = Sight(row, {ENTROPY: 0.0, **history.first}, limits, log_vocab)
    in_a_row = {each.name: history.in_a_row.get(each.name, 0) + 1 if each.fails(sight) else 0 for each in CHECKS}
    found = list(history.found)
    for check in CHECKS:
        steps, needed = in_a_row[check.name], limits.patience if check.is_patient else 1
        if steps < needed:
            continue
        going_on = [i for i, each in enumerate(found) if (each.check, each.last_step) == (check.name, step - 1)]
        for index in going_on:
            found[index] = replace(found[index], last_step=step)
        if not going_on:
            found.append(Finding(check.name, step - steps + 1, step, _with_setting(check, sight)))
    return History(history.first, in_a_row, tuple(found))


def _with_setting(check: HealthCheck, sight: Sight) -> str:
    value = getattr(sight.limits, check.setting)
    return f"{check.says(sight)} (monitor_config.health.{check.setting}={value:g})"


def health_metrics(history: History, step: int) -> dict[str, float]:
    """Keys of metrics.jsonl: steps in a row that each check has failed, and how many have for long enough."""
    rows = {f"health/{name}": float(steps) for name, steps in history.in_a_row.items()}
    return {**rows, "health/failing": float(len(history.failing(step)))}


def new_lines(before: History, after: History, step: int) -> list[str]:
    """A line for every check that has begun to fail with this step."""
    known = {(each.check, each.first_step) for each in before.found}
    return [
        f"warning: step {step} is unhealthy ({each.check}, since step {each.first_step}): {each.what}"
        for each in after.failing(step)
        if (each.check, each.first_step) not in known
    ]
