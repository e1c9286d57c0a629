"""Tensor ranks that draw different tokens end together, in words; those that agree go on."""

from pathlib import Path

import pytest
from distributed.jobs import run_ranks

WORKER = Path(__file__).with_name("agreement_worker.py")


@pytest.mark.parametrize("place", ["parts", "graph", "host"])
@pytest.mark.parametrize("logits", ["same", "other"])
def test_one_rank_whose_logits_are_others(tmp_path, logits, place):
    code, text, logs = run_ranks(2, tmp_path / "log", WORKER, logits, place, timeout=120)
    assert code == 0, text[-3000:] + logs[-6000:]
