"""Two runs never write in one folder."""

import fcntl
import os
import subprocess
import sys

import pytest
from distributed.small_runs import single
from helpers import ROOT, clean_environment, run_python

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.job.lock import FolderIsTaken, hold_output, lock_folder

HOLDS = """import sys
from pathlib import Path
from mindrlhf_lite.job.lock import hold_output, lock_folder
folder = Path(sys.argv[1])
lock_folder(folder)
hold_output(folder / "model")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds both locks until its input ends."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    pipes, environment = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}, clean_environment(PYTHONPATH=str(ROOT))
    with subprocess.Popen(command, **pipes, env=environment) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_was_first(tmp_path, holder):
    with pytest.raises(FolderIsTaken, match=f"process {holder.pid} on "):
        lock_folder(tmp_path)
    holder.kill()  # however it ends, its lock ends with it
    holder.wait()
    handle = lock_folder(tmp_path)
    assert handle is not None and os.pread(handle, 99, 0).startswith(f"process {os.getpid()} on ".encode())
    os.close(handle)


def test_one_tool_at_one_output(tmp_path, holder):
    with pytest.raises(UserError, match=f"model: another command is writing it .process {holder.pid} on "):
        hold_output(tmp_path / "model")
    arguments = ("--config", ROOT / "model_configs/qwen2_5_0_5b.yaml", "--tokenizer_dir", tmp_path)
    result = run_python("tools/make_random_model.py", *arguments, "--output", tmp_path / "model")
    assert result.returncode == 2 and "another command is writing it" in result.stderr
    holder.communicate()
    assert not (tmp_path / ".model.lock").exists()
    hold_output(tmp_path / "model")


def test_a_lock_that_others_have_made_into_something_else(tmp_path):
    """What a link points to is not written, and a pipe is not waited for."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        lock_folder(tmp_path)
    (tmp_path / ".model.lock").symlink_to(tmp_path / "precious")
    hold_output(tmp_path / "model")
    assert (tmp_path / "precious").read_text() == "mine"
    os.mkfifo(tmp_path / "pipe")
    os.replace(tmp_path / "pipe", tmp_path / ".lock")
    with pytest.raises(OSError, match="no file of locks"):
        lock_folder(tmp_path)


def test_a_file_system_without_locks_is_no_error(tmp_path, monkeypatch):
    def none_here(handle, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none_here)
    assert lock_folder(tmp_path) is None


def test_a_run_does_not_begin_beside_another(data, tmp_path, holder):
    result = single(data, tmp_path, "--rl_config.max_steps=1")
    assert result.returncode == 2 and f"another run is writing there (process {holder.pid} on" in result.stderr
    assert not (tmp_path / "metrics.jsonl").exists()
