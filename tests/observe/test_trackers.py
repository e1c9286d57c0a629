"""Trackers: what their own libraries read back, and that none of them costs the run more than a few seconds.

The libraries' tests need a Python that has them, in MINDRLHF_TRACKER_PYTHON (pip install wandb swanlab mlflow-skinny
trackio); without it they are skipped.
"""

import json
import os
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from mindrlhf_lite.tracking.trackers import LAST_SECONDS, NAMES, Trackers

PYTHON = os.environ.get("MINDRLHF_TRACKER_PYTHON", "")
ROWS = [{"prompt": "1+1=", "completion": "<script>2", "gold": "2", "reward": 1.0, "tokens": 3, "more": "unseen"}]
CONFIG = {"rl_config": {"seed": 5, "trackers": []}}


def run_parts(name, folder, python):
    """A run of two processes: two steps each."""
    for first in (1, 3):
        trackers = Trackers([name], python, folder, CONFIG)
        for step in (first, first + 1):
            trackers.metrics(step, {"reward": step / 4, "policy/kl": 0.5, "broken": float("nan")})
            trackers.samples(step, ROWS)
        time.sleep(8)  # libraries start slowly; a run takes longer than these
        trackers.summary({"steps": first + 1})
        trackers.close()


WANDB = """
import struct, sys
from wandb.proto import wandb_internal_pb2
for path in sys.argv[1:]:  # LevelDB's log: blocks of 32 KiB of records: checksum, length, kind (1 whole, 4 a last part)
    data, place, held = open(path, "rb").read(), 7, b""
    while place + 7 < len(data):
        place += 32768 - place % 32768 if place % 32768 > 32768 - 7 else 0
        _, length, kind = struct.unpack_from("<IHB", data, place)
        held, place = held + data[place + 7 : place + 7 + length], place + 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record.FromString(held)
            held = b""
            for item in record.history.item:
                print(".".join(item.nested_key) or item.key, item.value_json)
"""
MLFLOW = """
import os, sys
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
from mlflow import MlflowClient
client, run = MlflowClient("file:" + sys.argv[1]), open(sys.argv[1] + "/run_id").read()
print([(each.step, each.value) for each in client.get_metric_history(run, "reward")])
print(client.get_run(run).data.params["rl_config.seed"], client.get_run(run).info.status)
print(sorted(each.path for each in client.list_artifacts(run, "samples")))
"""


def read_back(script, *arguments):
    result = subprocess.run([PYTHON, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.full
@pytest.mark.skipif(not PYTHON, reason="MINDRLHF_TRACKER_PYTHON names no Python with the trackers' libraries")
@pytest.mark.parametrize("name", NAMES)
def test_what_a_library_reads_back_of_a_resumed_run(tmp_path, name, capsys):
    run_parts(name, tmp_path, PYTHON)
    folder = tmp_path / "trackers" / name
    assert "left out" not in capsys.readouterr().out
    if name == "wandb":
        found = read_back(WANDB, *sorted(folder.glob("wandb/offline-run-*/run-*.wandb")))
        assert [line.split()[1] for line in found.splitlines() if line.startswith("reward ")] == [
            "0.25",
            "0.5",
            "0.75",
            "1",
        ]
        assert len(list(folder.glob("wandb/offline-run-*/files/media/table/samples_*.table.json"))) == 4
    if name == "mlflow":
        values, settings, samples = read_back(MLFLOW, folder.resolve()).splitlines()
        assert values == "[(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]" and settings == "5 FINISHED"
        assert samples == str([f"samples/step_{step:06d}.json" for step in range(1, 5)])
    if name == "trackio":
        database = sqlite3.connect(next(folder.glob("*.db")))
        rows = [json.loads(row[0]) for row in database.execute("select metrics from metrics order by step")]
        assert [row["reward"] for row in rows if "reward" in row] == [0.25, 0.5, 0.75, 1.0]
    if name == "swanlab":
        assert len({path.name for path in folder.glob("run-*/run-*.swanlab")}) == 1  # the same run, of two parts
        texts = [path.read_text() for path in folder.glob("run-*/media/text/*")]
        assert texts and all("completion: <script>2" in text and "unseen" not in text for text in texts)


def living(group):
    """Processes of a group, but for those that only wait to be counted as dead."""
    stats = [path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    return [fields for fields in stats if fields[2] == group and fields[0] != "Z"]


def stand_in(tmp_path, text):
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/group\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("sleep 600", "it did not end within"),  # which reads nothing, and hears nothing
        ("cat > /dev/null; sleep 600", "it did not end within"),
        ("echo 'no such account' >&2; exit 3", "no such account"),
    ],
)
def test_a_tracker_that_hangs_or_fails_is_a_note(tmp_path, capsys, program, why):
    start = time.monotonic()
    trackers = Trackers(["wandb"], stand_in(tmp_path, program), tmp_path / "run", CONFIG)
    for step in range(1, 200):
        trackers.metrics(step, {"reward": 1.0})
        trackers.samples(step, ROWS)
    sent = time.monotonic() - start
    trackers.close()
    assert sent < 2.0 and time.monotonic() - start < LAST_SECONDS + 3
    said = capsys.readouterr().out
    assert f"tracker wandb is left out from here on: {why}" in said
    group, deadline = (tmp_path / "group").read_text().strip(), time.monotonic() + 5
    while living(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not living(group)


def test_a_python_that_is_not_there(tmp_path, capsys):
    trackers = Trackers(["mlflow"], str(tmp_path / "none"), tmp_path / "run", CONFIG)
    trackers.metrics(1, {"reward": 1.0})
    trackers.close()
    assert "tracker mlflow is left out" in capsys.readouterr().out


def test_what_nobody_reads_is_not_kept_for_ever(tmp_path, capsys):
    trackers = Trackers(["wandb"], stand_in(tmp_path, "exec sleep 600"), tmp_path / "run", CONFIG)
    long = [{**ROWS[0], "completion": "x" * (1 << 20)}]
    for step in range(1, 40):
        trackers.samples(step, long)
    assert "it does not read what it is sent" in capsys.readouterr().out
    trackers.close()


def test_a_backend_per_name():
    text = Path(__file__).parents[2].joinpath("mindrlhf_lite/tracking/backends.py").read_text()
    assert all(f'"{name}": ' in text for name in NAMES)
