"""The checkpoint store under every fault at every file operation of a save."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, clean_environment
from reliability.shim import built, faults

from mindrlhf_lite.checkpoint.store import Checkpoint, CheckpointStore

# saves step 3 beside steps 1 and 2, which also removes step 1
PROGRAM = """
import sys
sys.path[:0] = [sys.argv[2], sys.argv[2] + "/tests"]
from reliability.test_store_faults import save
try:
    save(sys.argv[1], 3)
except OSError as error:
    sys.exit(f"OSError: {error}")
"""
ALL = "open,write,fsync,rename,unlink,mkdir"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return built(tmp_path_factory.mktemp("shim"))


def save(folder, *steps):
    """Saves these steps in this process."""

    def more(scratch):
        (scratch / "tokenizer").mkdir()
        (scratch / "tokenizer/vocab.json").write_text("{}")

    for step in steps:
        tensors = {"a": np.full(5000, step, np.float32)}
        CheckpointStore(f"{folder}/ckpt", 2).save(Checkpoint(step, {"number": step}, tensors, more))


def save_in_a_process(folder, **environment):
    """Saves step 3 there, under faults."""
    command = [sys.executable, "-c", PROGRAM, str(folder), str(ROOT)]
    return subprocess.run(command, capture_output=True, text=True, env=clean_environment(**environment), timeout=60)


def whole_steps(folder):
    store = CheckpointStore(folder / "ckpt", 2)
    return [step for step in store.steps() if store.problem(step) is None]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    save(folder, 1, 2)
    return folder


@pytest.fixture(scope="module")
def num_operations(library, start, tmp_path_factory):
    """File operations of a third save."""
    folder = tmp_path_factory.mktemp("count")
    shutil.copytree(start, folder, dirs_exist_ok=True)
    result = save_in_a_process(folder, **faults(library, folder / "ckpt", ops=ALL, log=folder / "log"))
    assert result.returncode == 0, result.stderr
    return len((folder / "log").read_text().split())


def check_older_ones(folder, at):
    """What is under a final name is whole, and at least the two newest of what was there are. Returns the newest
    step.
    """
    steps = CheckpointStore(folder / "ckpt", 2).steps()
    assert whole_steps(folder) == steps and steps[0] >= 2 and len(steps) >= 2, (at, steps)
    return steps[0]


def every(*kinds):
    """The first kind at every fourth operation; all of them at every one with --full."""
    cases = [(kinds[0], 4), *(pytest.param(kind, 1, marks=pytest.mark.full) for kind in kinds)]
    return pytest.mark.parametrize(("kind", "step"), cases)


@every("kill", "killed")
def test_killed_at_every_operation(library, start, num_operations, tmp_path, kind, step):
    assert num_operations > 15
    for at in range(1, num_operations + 1, step):
        folder = tmp_path / str(at)
        shutil.copytree(start, folder)
        assert (
            save_in_a_process(folder, **faults(library, folder / "ckpt", kind, at, ALL)).returncode == -signal.SIGKILL
        )
        check_older_ones(folder, at)
        save(folder, 3, 4)  # as if nothing had been, and nothing is left over
        assert whole_steps(folder) == [4, 3] and sorted(os.listdir(folder / "ckpt")) == ["step_3", "step_4"], at


@every("enospc", "eio", "short")
def test_failing_operations(library, start, num_operations, tmp_path, kind, step):
    """An error in words or a whole checkpoint; nothing older is lost."""
    for at in range(1, num_operations + 1, step):
        folder = tmp_path / str(at)
        shutil.copytree(start, folder)
        result = save_in_a_process(folder, **faults(library, folder / "ckpt", kind, at, ALL))
        newest = check_older_ones(folder, at)
        assert newest == 3 or result.stderr.startswith("OSError: "), (at, result.stderr)
        assert "Traceback" not in result.stderr


def test_failing_reads_lead_to_the_older_checkpoint(library, start):
    program = "import sys; from mindrlhf_lite.checkpoint.store import CheckpointStore as S; "
    program += "saved, notes = S(sys.argv[1], 2).load_newest(); print(saved and saved.step, *notes, sep='\\n')"
    found = []
    for at in (1, 2, 3, 5, 1000):
        environment = clean_environment(**faults(library, start / "ckpt", "eio", at, "read"))
        command = [sys.executable, "-c", program, str(start / "ckpt")]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, cwd=ROOT)
        assert result.returncode == 0, result.stderr
        step, *notes = result.stdout.split("\n")
        assert step == "2" or (step == "1" and "step_2/" in notes[0] and "cannot be read" in notes[0]), result.stdout
        found.append(step)
    assert found == ["1"] * 4 + ["2"]  # the last fault lies behind everything that is read
