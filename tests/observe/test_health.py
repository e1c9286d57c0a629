"""What the checks find in metrics made up by hand, and how long they wait."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mindrlhf_lite.checkpoint.store import Checkpoint, CheckpointStore
from mindrlhf_lite.config.sections.monitor import HealthConfig
from mindrlhf_lite.observe.health import CHECKS, Finding, History, after_step, health_metrics, new_lines

LIMITS = HealthConfig(patience=3)
LOG_VOCAB = math.log(268)  # 5.591
BEGUN = History({"policy/entropy": 0.15, "health/max_weight": 1.18})
HEALTHY = {
    "policy/entropy": 0.12,
    "policy/grad_norm": 0.9,
    "policy/kl": 0.08,
    "speed/trained_tokens_per_s": 900.0,
    "reward/min": 0.0,
    "reward/max": 1.1,
    "reward/mean": 0.5,
    "completion/truncated": 0.1,
    "health/taught_share": 0.8,
    "health/max_weight": 1.2,
}
# the second step of the quickstart at a learning rate of 1e6, as it was measured
AT_RATE_1E6 = {
    **HEALTHY,
    "policy/entropy": 5.590962,
    "policy/grad_norm": 0.0,
    "policy/kl": 4.128905,
    "reward/max": 0.0,
    "reward/mean": 0.0,
    "completion/truncated": 0.84375,
    "health/taught_share": 0.0,
    "health/max_weight": 1e6,
}


def after(rows, history=BEGUN, limits=LIMITS, first_step=1):
    for step, row in enumerate(rows, first_step):
        history = after_step(history, step, row, limits, LOG_VOCAB)
    return history


def failed(limits=LIMITS, **changes):
    """Names of the checks that fail after three steps of such metrics."""
    row = {**HEALTHY, **{key.replace("__", "/"): value for key, value in changes.items()}}
    return [each.check for each in after([row] * 3, limits=limits).found]


def test_a_healthy_run_has_nothing():
    assert failed() == []
    metrics = health_metrics(after([HEALTHY] * 3), 3)
    assert metrics == {"health/failing": 0.0, **{f"health/{check.name}": 0.0 for check in CHECKS}}


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        ("dead_gradients", {"policy__grad_norm": 2e-7}, {"policy__grad_norm": 1e-7}),
        # 1 % of 0.15 is 0.0015
        ("entropy_collapse", {"policy__entropy": 0.00151}, {"policy__entropy": 0.00149}),
        # half of 5.591 is 2.7955
        ("entropy_runaway", {"policy__entropy": 2.795}, {"policy__entropy": 2.796}),
        ("kl_runaway", {"policy__kl": 2.0}, {"policy__kl": 2.01}),
        ("equal_rewards", {"health__taught_share": 0.01}, {"health__taught_share": 0.0}),
        ("equal_rewards", {"reward__max": 0.1}, {"reward__max": 0.0}),
        ("at_limit", {"completion__truncated": 0.94}, {"completion__truncated": 0.95}),
        # 10 times 1.18
        ("weight_growth", {"health__max_weight": 11.7}, {"health__max_weight": 11.9}),
    ],
)
def test_every_check_on_both_sides_of_its_threshold(check, good, bad):
    assert failed(**good) == [] and failed(**bad) == [check]


def test_a_threshold_of_zero_asks_for_nothing():
    off = replace(LIMITS, min_entropy=0.0, max_entropy=0.0, max_kl=0.0, max_truncated=0.0, max_weight_growth=0.0)
    extreme = {"policy__kl": 99.0, "completion__truncated": 1.0, "health__max_weight": 9e3}
    assert failed(off, policy__entropy=0.0, **extreme) == failed(off, policy__entropy=5.59, **extreme) == []


def test_no_gradient_is_dead_where_nothing_is_to_be_learnt():
    nothing = {"health__taught_share": 0.0, "policy__grad_norm": 0.0, "policy__kl": 0.0}
    assert failed(**nothing) == ["equal_rewards"]
    assert failed(policy__grad_norm=0.0, policy__overflows=1.0) == []  # float16: the update was left out


def test_a_step_that_trains_nothing_says_nothing_of_the_entropy():
    assert failed(policy__entropy=0.0, speed__trained_tokens_per_s=0.0) == []


def test_a_rate_of_a_million_is_found():
    history = after([HEALTHY, *[AT_RATE_1E6] * 3])
    assert {(each.check, each.first_step, each.last_step) for each in history.found} == {
        ("dead_gradients", 2, 4),
        ("entropy_runaway", 2, 4),
        ("kl_runaway", 2, 4),
        ("equal_rewards", 2, 4),
        ("weight_growth", 2, 4),  # without patience
    }


def test_a_check_waits_is_said_once_and_begins_anew():
    dead = {**HEALTHY, "policy/grad_norm": 0.0}
    two = after([HEALTHY, dead, dead])
    assert two.found == () and two.in_a_row["dead_gradients"] == 2
    assert two.failing_since(3) == 2 and after([dead, HEALTHY]).failing_since(2) is None
    three = after([dead], two, first_step=4)
    (line,) = new_lines(two, three, 4)
    assert line.startswith("warning: step 4 is unhealthy (dead_gradients, since step 2): the gradient norm is 0 though")
    assert "monitor_config.health.min_grad_norm=1e-07" in line and health_metrics(three, 4)["health/failing"] == 1.0
    four = after([dead], three, first_step=5)
    assert new_lines(three, four, 5) == [] and four.found == (replace(three.found[0], last_step=5),)
    again = after([HEALTHY, *[dead] * 3], four, first_step=6)
    assert [(each.first_step, each.last_step) for each in again.found] == [(2, 5), (7, 9)]
    assert again.failing(9) == [again.found[1]] and again.failing(6) == []


def test_what_was_saved_before_a_check_began_to_fail_is_kept(tmp_path):
    """Also while nobody can know yet that it will fail for long, and where few checkpoints are kept."""
    store, history, dead = CheckpointStore(tmp_path, 2), BEGUN, {**HEALTHY, "policy/grad_norm": 0.0}
    for step in range(1, 10):
        history = after([dead if step >= 4 else HEALTHY], history, replace(LIMITS, patience=5), first_step=step)
        spared = store.newest_before(history.failing_since(step))
        store.save(Checkpoint(step, {}, {"a": np.ones(3, np.float32)}), spared=spared)
        assert step < 4 or 3 in store.steps(), step
    assert store.steps() == [9, 8, 3]


def test_a_history_is_the_same_behind_a_checkpoint():
    rows = [HEALTHY, *[AT_RATE_1E6] * 4]
    half = History.from_dict(after(rows[:3]).as_dict())
    assert after(rows[3:], half, first_step=4) == after(rows)
    assert History.from_dict({}) == History()  # of an older version


def test_a_random_model_begins_with_a_high_entropy():
    history = after([{**HEALTHY, "policy/entropy": entropy} for entropy in (5.5, 5.55, 5.58, 5.59)], History())
    assert history.found == ()


def test_a_run_begins_with_the_first_step_that_trains():
    history = after([{**HEALTHY, "speed/trained_tokens_per_s": 0.0, "policy/entropy": 0.0}, HEALTHY], History())
    assert history.first == {"policy/entropy": 0.12, "health/max_weight": 1.2}


def test_findings_are_plain_data():
    found = Finding("kl_runaway", 1, 3, "the KL to the reference is 4 nats a token (monitor_config.health.max_kl=2)")
    assert after([{**HEALTHY, "policy/kl": 4.0}] * 3).found == (found,)
