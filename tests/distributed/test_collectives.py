"""Collectives between two real ranks, and the gradients of those that have one."""

from pathlib import Path

import pytest
from distributed.jobs import run_ranks

WORKER = Path(__file__).with_name("collectives_worker.py")


def test_values_and_gradients_on_two_ranks(tmp_path):
    code, text, logs = run_ranks(2, tmp_path / "log", WORKER, tmp_path / "made_by_a_forger")
    assert code == 0, text[-3000:] + logs[-6000:]


@pytest.mark.parametrize("seconds", [1, pytest.param(40, marks=pytest.mark.full)])
def test_a_late_rank_is_waited_for(tmp_path, seconds):
    """MindSpore alone gives it up after 30 s."""
    code, text, logs = run_ranks(2, tmp_path / "log", WORKER.with_name("arrivals_worker.py"), seconds)
    assert code == 0, text[-3000:] + logs[-6000:]
