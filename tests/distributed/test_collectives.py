"""Collectives between two real ranks, and the gradients of those that have one."""

from pathlib import Path

from distributed.jobs import start_msrun

WORKER = Path(__file__).with_name("collectives_worker.py")


def test_values_and_gradients_on_two_ranks(tmp_path):
    code, text, logs = start_msrun(2, tmp_path / "log", WORKER)
    assert code == 0, text[-3000:] + logs[-6000:]
