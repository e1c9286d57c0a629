"""Resharding between four real ranks; tests/reshard proves the plans, this proves what carries them out."""

from pathlib import Path

from distributed.jobs import run_ranks

WORKER = Path(__file__).with_name("reshard_worker.py")


def test_both_transports_between_four_ranks(tmp_path):
    """Bit for bit; seen by compiled graphs; a broken number is an error on all ranks; no file; peak memory within two
    buckets.
    """
    (tmp_path / "empty").mkdir()
    code, text, logs = run_ranks(4, tmp_path / "log", WORKER, tmp_path / "empty", cwd=tmp_path / "empty")
    assert code == 0, text[-3000:] + logs[-6000:]
    print(logs)  # pytest -s: the memory figures of docs/parallel.md
