"""Two runs never write in one folder."""

import fcntl
import multiprocessing
import os

import pytest
from distributed.small_runs import data, single  # noqa: F401
from helpers import ROOT, run_python

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.job.lock import FolderIsTaken, hold_output, lock_folder


def hold(folder, is_held, may_end):
    lock_folder(folder)
    hold_output(folder / "model")
    is_held.set()
    may_end.wait(60)


@pytest.fixture
def holder(tmp_path):
    context = multiprocessing.get_context("spawn")
    is_held, may_end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, is_held, may_end))
    process.start()
    assert is_held.wait(60)
    yield process, may_end
    may_end.set()
    process.join(60)


def test_the_second_is_told_who_was_first(tmp_path, holder):
    process, _ = holder
    with pytest.raises(FolderIsTaken, match=f"process {process.pid} on "):
        lock_folder(tmp_path)
    process.kill()  # however it ends, its lock ends with it
    process.join(60)
    handle = lock_folder(tmp_path)
    assert handle is not None and os.pread(handle, 99, 0).startswith(f"process {os.getpid()} on ".encode())
    os.close(handle)


def test_one_tool_at_one_output(tmp_path, holder):
    process, may_end = holder
    with pytest.raises(UserError, match=f"model: another command is writing it .process {process.pid} on "):
        hold_output(tmp_path / "model")
    arguments = ("--config", ROOT / "model_configs/qwen2_5_0_5b.yaml", "--tokenizer_dir", tmp_path)
    result = run_python("tools/make_random_model.py", *arguments, "--output", tmp_path / "model")
    assert result.returncode == 2 and "another command is writing it" in result.stderr
    may_end.set()
    process.join(60)
    assert not (tmp_path / ".model.lock").exists()
    hold_output(tmp_path / "model")


def test_a_file_system_without_locks_is_no_error(tmp_path, monkeypatch):
    def none_here(handle, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none_here)
    assert lock_folder(tmp_path) is None


def test_a_run_does_not_begin_beside_another(data, tmp_path, holder):  # noqa: F811
    process, _ = holder
    result = single(data, tmp_path, "--rl_config.max_steps=1")
    assert result.returncode == 2 and f"another run is writing there (process {process.pid} on" in result.stderr
    assert not (tmp_path / "metrics.jsonl").exists()
