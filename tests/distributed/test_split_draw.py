"""Tensor ranks that draw from parts of the vocabulary draw what one draws from the whole of it, all the same bits."""

from pathlib import Path

from distributed.jobs import run_ranks


def test_three_ranks_draw_as_one(tmp_path):
    code, text, logs = run_ranks(3, tmp_path / "log", Path(__file__).with_name("split_draw_worker.py"), timeout=240)
    assert code == 0, text[-3000:] + logs[-6000:]
