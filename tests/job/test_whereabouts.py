"""What a dead rank was at is found beside its log."""

from mindrlhf_lite.job.last_words import last_lines
from mindrlhf_lite.job.whereabouts import last_noted


def test_what_was_noted_last(tmp_path):
    assert last_noted(tmp_path / "worker_1.log") == ""
    (tmp_path / "worker_1.at").write_text("step 12, update".ljust(80))
    assert last_noted(tmp_path / "worker_1.log") == "step 12, update"


def test_last_lines_without_the_progress_bar(tmp_path):
    (tmp_path / "worker_0.log").write_text("one\ntwo\nthree\nfour\n\rtraining update 1/3 |##  |\n\n")
    assert last_lines(tmp_path / "worker_0.log") == "\n    two\n    three\n    four"
    assert last_lines(tmp_path / "none.log") == ""
