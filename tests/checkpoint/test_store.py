"""Checkpoints: whole or not there, damage named, older ones kept."""

import errno
import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from mindrlhf_lite.checkpoint.store import Checkpoint, CheckpointStore


def checkpoint(step):
    return Checkpoint(
        step, {"note": f"s{step}"}, {"a": np.full((3, 2), step, np.float32), "b": np.arange(step + 1, dtype=np.float32)}
    )


def test_round_trip_and_keep(tmp_path):
    store = CheckpointStore(tmp_path / "ckpt", keep=2)
    for step in (2, 4, 10):
        store.save(checkpoint(step))
    assert store.steps() == [10, 4]
    loaded, damaged = store.load_newest()
    assert loaded.step == 10 and loaded.state["note"] == "s10" and not damaged
    np.testing.assert_array_equal(loaded.tensors(0)["b"], np.arange(11))


def test_a_spared_checkpoint_is_kept_besides_the_newest(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(checkpoint(2))
    for step in (4, 6):
        store.save(checkpoint(step), spared={2})
    assert store.steps() == [6, 2]
    store.save(checkpoint(8))
    assert store.steps() == [8]


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def keep_in_manifest(folder, *names):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    (folder / "manifest.json").write_text(json.dumps({"files": {name: files[name] for name in names}}))


def add_to_manifest(folder, name):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    (folder / "manifest.json").write_text(json.dumps({"files": {**files, name: files["state.json"]}}))


def test_folders_that_only_look_like_checkpoints_are_none(tmp_path):
    store = CheckpointStore(tmp_path, keep=3)
    store.save(checkpoint(12))
    for name in ("step_\u00b2", "step_0012", "step_-3", "step_1e3", "step_", f"step_{'9' * 5000}"[:200]):
        (tmp_path / name).mkdir()
    assert store.steps() == [12]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: flip(folder / "rank_00000.safetensors"), "rank_00000.safetensors was changed or damaged"),
        (lambda folder: (folder / "state.json").write_text("{}"), "state.json has 2 bytes"),
        (lambda folder: (folder / "rank_00000.safetensors").unlink(), "rank_00000.safetensors is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda folder: keep_in_manifest(folder, "state.json"), "manifest.json names no file of tensors"),
        (lambda folder: add_to_manifest(folder, "../step_1/state.json"), "which is no file below it"),
        (lambda folder: add_to_manifest(folder, "/etc/hostname"), "which is no file below it"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, damage, message):
    store = CheckpointStore(tmp_path, keep=3)
    store.save(checkpoint(1))
    store.save(checkpoint(2))
    damage(tmp_path / "step_2")
    loaded, damaged = store.load_newest()
    assert loaded.step == 1 and len(damaged) == 1 and message in damaged[0]


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(checkpoint(1))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.save(checkpoint(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]
    assert store.load_newest()[0].step == 1


def save_forever(folder):
    store, step = CheckpointStore(folder, keep=2), 1
    while True:
        store.save(Checkpoint(step, {}, {"a": np.full(200_000, step, np.float32)}))
        step += 1


def test_kill_9_while_saving_never_breaks_resume(tmp_path):
    for round_number in range(6):
        process = multiprocessing.get_context("fork").Process(target=save_forever, args=(tmp_path,))
        process.start()
        time.sleep(0.15 + 0.037 * round_number)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        loaded, damaged = CheckpointStore(tmp_path, keep=2).load_newest()
        assert not damaged
        if loaded is not None:
            assert (loaded.tensors(0)["a"] == loaded.step).all()
    assert loaded is not None
    CheckpointStore(tmp_path, keep=2).save(checkpoint(10_000))
    assert not list(tmp_path.glob(".step_*"))  # the leftovers of the killed ones are cleared away
