"""The page that a run shows of itself: it ends with the run, however that ends, and a port that is taken is a line."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from helpers import ROOT, clean_environment
from watch.made import make_watched

from mindrlhf_lite.watch.of_run import RunPage

RUN = """
import sys, time
from pathlib import Path
from mindrlhf_lite.commands.signals import end_on_signals
end_on_signals()  # as a rank does: signals are blocked in every thread, and in what it starts
from mindrlhf_lite.watch.of_run import RunPage
folder = Path(sys.argv[2])
page = RunPage(int(sys.argv[1]), folder, folder / "completions")
print("started", flush=True)
if sys.argv[3] == "raise":
    sys.stdin.readline()
    raise ValueError("a fault")
if sys.argv[3] == "close":
    sys.stdin.readline()
    page.close()
time.sleep(60)
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def is_there(port):
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def gone_within(port, seconds):
    deadline = time.monotonic() + seconds
    while is_there(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def started(tmp_path):
    """A function that starts a run with a page: (its process, the port)."""
    processes = []

    def start(end="wait"):
        port, folder = free_port(), tmp_path / "run"
        make_watched(folder)
        command = [sys.executable, "-c", RUN, str(port), folder, end]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        process = subprocess.Popen(
            command, env=clean_environment(PYTHONPATH=str(ROOT)), start_new_session=True, **streams
        )
        processes.append(process)
        assert process.stdout.readline() == f"watch this run: http://127.0.0.1:{port}/\n"
        assert process.stdout.readline() == "started\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/state", timeout=20) as answer:
            (state,) = json.load(answer)["runs"]
        assert (state["name"], state["step"]) == ("run", 12)
        return process, port

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_a_run_that_is_ended(started, number):
    process, port = started()
    os.kill(process.pid, number)
    process.wait(10)
    assert gone_within(port, 5)


@pytest.mark.parametrize("end", ["raise", "close"])
def test_it_ends_with_a_run_that_ends(started, end):
    process, port = started(end)
    process.stdin.write("now\n")
    process.stdin.flush()
    assert gone_within(port, 5)


def test_a_run_whose_page_is_killed_goes_on(started):
    process, port = started()
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    (page,) = map(int, open(children).read().split())
    os.kill(page, signal.SIGKILL)
    assert gone_within(port, 5) and process.poll() is None


def test_a_taken_port_is_one_warning(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        page = RunPage(port, tmp_path, tmp_path / "completions")
        page.close()
    said = capsys.readouterr().out
    assert said == f"warning: rl_config.watch_port={port}: no page: Address already in use; give a free port\n"
    RunPage(0, tmp_path, tmp_path).close()
    assert capsys.readouterr().out == "" and list(tmp_path.iterdir()) == []
