"""What a run's metrics say is wrong: each by rows made up by hand, on both sides of its limit."""

import math

import pytest

from mindrlhf_lite.observe.concerns import (
    TEXTS,
    Concern,
    entropy_moves,
    environment_fails,
    few_are_taught,
    health_concerns,
    kl_grows,
    not_finite,
    reward_does_not_rise,
    streaks,
    trends,
    truncation_rises,
    verifier_fails,
)
from mindrlhf_lite.observe.health import CHECKS


def rows(key, *parts, **more):
    """Args: parts: (count, value): so many steps with that value."""
    values = [value for count, value in parts for _ in range(count)]
    return [{"step": step, key: value, **more} for step, value in enumerate(values, 1)]


def kind(concern):
    return concern and concern.kind


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (2.0, 0.1, "entropy_falls"),  # less than a tenth: 0.2
        (2.0, 0.25, None),
        (1.0, 2.5, "entropy_grows"),  # more than twice as much, and than 1.5
        (1.0, 1.9, None),
        (0.1, 0.5, None),  # five times as much, but not half a nat more
    ],
)
def test_entropy(first, last, expected):
    found = entropy_moves(rows("policy/entropy", (10, first), (10, last)))
    assert kind(found) == expected
    if found:
        assert (found.first_step, found.last_step) == (11, 20)
        assert found.values["first"] == pytest.approx(first) and found.values["last"] == pytest.approx(last)
    assert entropy_moves(rows("policy/entropy", (9, first), (10, last))) is None  # too early to say


@pytest.mark.parametrize("key", ["policy/kl", "reward/kl"])
@pytest.mark.parametrize(
    ("early", "late", "expected"),
    [(0.05, 0.2, "kl_grows"), (0.05, 0.14, None), (0.001, 0.05, None)],  # 3 times 0.05 is 0.15; 0.1 at least
)
def test_kl(key, early, late, expected):
    assert kind(kl_grows(rows(key, (30, 5.0), (10, early), (10, late)))) == expected


def alternating(low, high):
    return [{"step": step, "reward/mean": high if step % 2 == 0 else low, "reward/max": 1.0} for step in range(1, 51)]


def test_reward():
    # steps 1 to 25 have 12 ones, 26 to 50 have 13: 0.48 and 0.52; each mean has a standard error of 0.1
    found = reward_does_not_rise(alternating(0.0, 1.0))
    assert found == Concern("reward_flat", 26, 50, {"first": 0.48, "last": 0.52, "steps": 50.0})
    # step/50: means 0.26 and 0.76; variance (25 * 26 / 12) / 2500, standard error of the gain 0.042
    rising = [{"step": step, "reward/mean": step / 50} for step in range(1, 51)]
    assert reward_does_not_rise(rising) is None
    falling = [{"step": step, "reward/mean": 1 - step / 50} for step in range(1, 51)]
    assert kind(reward_does_not_rise(falling)) == "reward_falls"
    assert reward_does_not_rise(rows("reward/mean", (50, 0.96), **{"reward/max": 1.0})) is None  # nothing left to gain
    assert kind(reward_does_not_rise(rows("reward/mean", (50, 0.94), **{"reward/max": 1.0}))) == "reward_flat"
    assert reward_does_not_rise(rows("reward/mean", (49, 0.2))) is None


def test_groups_that_teach_nothing():
    assert few_are_taught(rows("health/taught_share", (10, 0.08))) == Concern("few_taught", 1, 10, {"last": 0.08})
    assert few_are_taught(rows("health/taught_share", (9, 0.0), (1, 1.0))) is None  # a mean of 0.1
    assert few_are_taught(rows("health/taught_share", (10, 0.0), **{"policy/teacher_kl": 0.1})) is None


def test_truncation():
    found = truncation_rises(rows("completion/truncated", (10, 0.08), (10, 0.14)))
    assert (kind(found), found.first_step, found.last_step) == ("truncation_rises", 11, 20)
    assert truncation_rises(rows("completion/truncated", (10, 0.12), (10, 0.16))) is None  # 0.04 more
    assert truncation_rises(rows("completion/truncated", (10, 0.0), (10, 0.08))) is None  # less than a tenth


def test_verifiers_and_environments_that_fail():
    some = rows("reward/outcome/error", (5, 0.0), (2, 0.25), (3, 0.0))
    some[5]["reward/outcome/timeout"] = 0.25  # steps 6 and 7: 0.5 and 0.25
    assert verifier_fails(some) == Concern("verifier_fails", 6, 7, {"last": 0.375})
    assert verifier_fails(rows("reward/outcome/error", (1, 0.5), (10, 0.0))) is None  # eleven steps ago
    failed = environment_fails(rows("episode/failures", (10, 0.0), (2, 3.0)))
    assert failed == Concern("environment_fails", 11, 12, {"count": 6.0, "steps": 10.0})


def test_values_that_are_not_finite():
    bad = [{"step": 1, "a": 1.0}, {"step": 2, "a": math.nan, "b": math.inf, "c": 0.0}]
    assert not_finite(bad) == Concern("not_finite", 2, 2, {"count": 2.0})
    assert not_finite(bad[:1]) is None and not_finite([]) is None
    assert entropy_moves(rows("policy/entropy", (10, 1.0), (10, math.nan))) is None  # no trend


def test_streaks_of_health():
    # failed in steps 3 and 4, and in 6 to 8
    counts = list(zip(range(1, 10), [0, 0, 1, 2, 0, 1, 2, 3, 0]))
    assert streaks(counts, 2) == [(3, 4), (6, 8)] and streaks(counts, 3) == [(6, 8)] and streaks(counts, 4) == []
    assert streaks([(1, math.nan), (2, 2.0)], 2) == [(1, 2)]
    found = health_concerns({"kl_runaway": counts, "weight_growth": [(1, 0.0), (2, 1.0)]}, patience=3)
    assert found == [Concern("kl_runaway", 6, 8), Concern("weight_growth", 2, 2)]  # the latter counts at once


def test_each_has_words():
    assert {check.name for check in CHECKS} <= TEXTS.keys()
    assert "12 environment(s) failed in 10 steps" in trends(rows("episode/failures", (10, 1.2)))[0].text
    assert trends([]) == [] and trends(rows("eval/accuracy", (60, 0.5))) == []
