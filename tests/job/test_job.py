"""A job under msrun ends as a whole, says in one line which rank ended how and how to go on, and leaves nothing
running.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from distributed.jobs import end_processes_of
from helpers import ROOT, clean_environment, listen_to_ctrl_c, run

from mindrlhf_lite.job.ports import free_port
from mindrlhf_lite.job.processes import Process

PROGRAM = ROOT / "tests/job/rank_program.py"
SECONDS = 15  # for everything to be gone, 10 on an idle machine; msrun alone needs up to 34


class Job:
    """A job of two ranks and a scheduler, whose console text is in `console`.

    Args: ranks: what `mindrlhf_lite.job` is told of them.
    """

    def __init__(
        self,
        folder: Path,
        mode: str,
        by_msrun: bool,
        port: int = 0,
        before=listen_to_ctrl_c,
        ranks=("--ranks=2",),
        stderr=subprocess.STDOUT,
    ):
        (folder / "checkpoints/step_20").mkdir(parents=True)
        log = f"{folder}/log"
        here = [*ranks, f"--log_dir={log}", *([f"--master_port={port}"] if port else [])]
        there = [
            "--worker_num=2",
            "--local_worker_num=2",
            f"--master_port={port or free_port()}",
            "--join=True",
            f"--log_dir={log}",
        ]
        self.folder, self.mark, self.console = folder, uuid.uuid4().hex, folder / "console"
        program = [str(PROGRAM), mode, str(folder)]
        command = (
            ["msrun", *there, *program] if by_msrun else [sys.executable, "-m", "mindrlhf_lite.job", *here, *program]
        )
        environment = clean_environment(TEST_JOB=self.mark, PYTHONPATH=str(ROOT))
        output = self.console.open("wb")
        self.process = subprocess.Popen(
            command, stdout=output, stderr=stderr, env=environment, start_new_session=True, preexec_fn=before
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        end_processes_of(self.mark)

    def wait_for_ranks(self, names=("MS_SCHED_0", "MS_WORKER_0", "MS_WORKER_1")) -> dict[str, int]:
        """Process numbers by role and rank, once all have started."""
        deadline = time.monotonic() + 60
        while not all((self.folder / name).is_file() and (self.folder / name).read_text() for name in names):
            assert self.process.poll() is None and time.monotonic() < deadline, self.console.read_text()
            time.sleep(0.05)
        numbers = {name: int((self.folder / name).read_text()) for name in names}
        while self.process.poll() is None and any(
            is_alive(number) and number not in self.watched() for number in numbers.values()
        ):
            assert time.monotonic() < deadline, self.console.read_text()
            time.sleep(0.05)
        return numbers

    def watched(self) -> set[int]:
        """The processes that the guard has found: it holds a handle of each until it has seen it end."""
        found = set()
        for guard in self.processes_of("mindrlhf_lite.job.guard"):
            for handle in Path(f"/proc/{guard}/fdinfo").iterdir():
                with contextlib.suppress(OSError):  # closed meanwhile
                    found |= {int(number) for number in re.findall(r"^Pid:\s+(\d+)", handle.read_text(), re.MULTILINE)}
        return found

    def ends(self, seconds: int = SECONDS) -> int:
        """The exit code, which comes within so many seconds; nothing is left running SECONDS later."""
        code = self.process.wait(timeout=seconds)
        deadline = time.monotonic() + SECONDS
        while left := self.left():
            assert time.monotonic() < deadline, f"still running: {left}\n{self.console.read_text()}"
            time.sleep(0.1)
        return code

    def processes_of(self, module: str) -> list[int]:
        """The numbers of the job's processes that run this module."""
        numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        found = [process for process in map(Process.find, numbers) if process and module in process.command_line()]
        return [process.pid for process in found if process.environment().get("TEST_JOB") == self.mark]

    def left(self) -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            process = Process.find(int(entry.name)) if entry.name.isdigit() else None
            if process and process.is_alive() and process.environment().get("TEST_JOB") == self.mark:
                found.append(f"{process.pid} {process.name}")
        return found


def is_asleep(number: int) -> bool:
    """Whether a process is in time.sleep, which a lifeline first is when it has seen whom it belongs to."""
    return "nanosleep" in Path(f"/proc/{number}/wchan").read_text()


def is_alive(number: int) -> bool:
    process = Process.find(number)
    return process is not None and process.is_alive()


HINT = "the newest checkpoint is after step 20; go on with: the same command with --rl_config.output_dir="


@pytest.mark.parametrize("by_msrun", [True, False], ids=["msrun", "job"])
def test_sigterm_ends_everything_and_says_how_to_go_on(tmp_path, by_msrun):
    with Job(tmp_path, "sleep", by_msrun) as job:
        job.wait_for_ranks()
        job.process.send_signal(signal.SIGTERM)
        code = job.ends()
        text = job.console.read_text()
        assert code == (-signal.SIGTERM if by_msrun else 143) and text.count(HINT) == 1 and "Traceback" not in text, (
            text
        )
        assert ("stopped: msrun was ended; " if by_msrun else "stopped by SIGTERM; ") + HINT in text, text


@pytest.mark.parametrize("by_msrun", [True, False], ids=["msrun", "job"])
def test_ctrl_c_is_one_line_and_no_success(tmp_path, by_msrun):
    with Job(tmp_path, "sleep", by_msrun) as job:
        job.wait_for_ranks()
        job.process.send_signal(signal.SIGINT)
        code = job.ends()
        text = job.console.read_text()
        assert code == 130 or (by_msrun and code != 0), text  # msrun's own code would be 0
        assert f"interrupted; {HINT}" in text and text.count(HINT) == 1 and "Traceback" not in text, text


@pytest.mark.parametrize("by_msrun", [True, False], ids=["msrun", "job"])
def test_a_killed_rank_is_named(tmp_path, by_msrun):
    with Job(tmp_path, "sleep", by_msrun) as job:
        ranks = job.wait_for_ranks()
        os.kill(ranks["MS_WORKER_1"], signal.SIGKILL)
        assert job.ends() != 0
        text = job.console.read_text()
        assert "error: rank 1 was killed by signal 9 (SIGKILL)" in text and text.count(HINT) == 1, text
        assert "Traceback" not in text and "rank 0" not in text and "worker_1.log" in text, text


@pytest.mark.parametrize(
    ("by_msrun", "stderr", "said"),
    [
        (True, subprocess.STDOUT, "error: rank 1 was killed by signal 9 (SIGKILL) in step 3, update"),
        (False, subprocess.STDOUT, "error: rank 1 was killed by signal 9 (SIGKILL) in step 3, update"),
        (True, subprocess.DEVNULL, "error: rank 1 ended in step 3, update, how only msrun's own log says"),
    ],
    ids=["msrun", "job", "msrun_whose_log_is_no_file"],
)
def test_a_killed_rank_is_named_where_msrun_saw_it_first(tmp_path, by_msrun, stderr, said):
    """A guard that was not given time for a moment finds the other ranks killed too, by msrun."""
    with Job(tmp_path, "sleep", by_msrun, stderr=stderr) as job:
        ranks = job.wait_for_ranks()
        (tmp_path / "log/worker_1.at").write_text("step 3, update")
        (guard,) = job.processes_of("mindrlhf_lite.job.guard")
        os.kill(guard, signal.SIGSTOP)
        os.kill(ranks["MS_WORKER_1"], signal.SIGKILL)
        deadline = time.monotonic() + SECONDS
        while (first := Process.find(ranks["MS_WORKER_0"])) and first.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(guard, signal.SIGCONT)
        assert job.ends() != 0
        text = job.console.read_text()
        assert said in text and "rank 0" not in text, text


def test_a_killed_rank_that_is_alone_on_its_node_is_named(tmp_path):
    """Beside a scheduler that had nothing to do, as on a second node that is on the first one's host."""
    ranks = ("--ranks=2", "--local_ranks=1", "--node_rank=1")
    with Job(tmp_path, "second_node", False, free_port(), ranks=ranks) as job:
        numbers = job.wait_for_ranks(("MS_SCHED_0", "MS_WORKER_1"))
        deadline = time.monotonic() + SECONDS
        while is_alive(numbers["MS_SCHED_0"]) or numbers["MS_SCHED_0"] in job.watched():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(numbers["MS_WORKER_1"], signal.SIGKILL)
        assert job.ends() == 1, job.console.read_text()
        assert "error: rank 1 was killed by signal 9 (SIGKILL)" in job.console.read_text()
        assert "rank 1 was killed" in (tmp_path / ".ended_on_a_host").read_text()  # the other host's guard reads it


@pytest.mark.parametrize("by_msrun", [True, False], ids=["msrun", "job"])
def test_a_mistake_of_one_rank_is_said_once(tmp_path, by_msrun):
    with Job(tmp_path, "mistake", by_msrun) as job:
        job.wait_for_ranks()
        code = job.ends()
        text = job.console.read_text()
        assert code == 2 or (by_msrun and code != 0), text
        assert text.count("rl_config.beta=high") == 1 and "Traceback" not in text and "go on with" not in text, text


@pytest.mark.parametrize(
    "killed",
    [
        ("launcher",),
        ("msrun",),
        ("MS_SCHED_0",),
        ("guard", "MS_WORKER_0", "MS_WORKER_1"),
        ("guard", "msrun"),
        ("guard", "launcher"),
        ("lifeline", "MS_WORKER_0"),
    ],
    ids="+".join,
)
def test_nothing_outlives_what_it_belongs_to(tmp_path, killed):
    with Job(tmp_path, "sleep", by_msrun=False) as job:
        numbers = job.wait_for_ranks()
        (numbers["msrun"],) = (p for p in job.processes_of("--worker_num=2"))
        (numbers["guard"],) = job.processes_of("mindrlhf_lite.job.guard")
        (numbers["lifeline"],) = job.processes_of("mindrlhf_lite.job.lifelines")
        deadline = time.monotonic() + SECONDS
        while not is_asleep(numbers["lifeline"]):  # killed earlier, it has not seen yet whom it belongs to
            assert time.monotonic() < deadline
            time.sleep(0.05)
        numbers["launcher"] = job.process.pid
        for name in killed:
            os.kill(numbers[name], signal.SIGKILL)
        assert job.ends() != 0, job.console.read_text()
        assert "Traceback" not in job.console.read_text()


def test_nohup_keeps_a_job_alive(tmp_path):
    with Job(tmp_path, "sleep", by_msrun=False, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as job:
        job.wait_for_ranks()
        os.killpg(job.process.pid, signal.SIGHUP)
        time.sleep(1)
        assert job.process.poll() is None
        job.process.terminate()
        assert job.ends() == 143


def test_a_job_that_is_done_leaves_nothing(tmp_path):
    with Job(tmp_path, "done", by_msrun=False) as job:
        assert job.ends(seconds=60) == 0 and not job.console.read_text().strip(), job.console.read_text()


def test_a_taken_port_is_named_before_ranks_start(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with Job(tmp_path, "sleep", by_msrun=False, port=port) as job:
            assert job.ends(seconds=60) == 2
            assert (
                f"--master_port={port}: another program listens" in job.console.read_text()
                and not (tmp_path / "MS_WORKER_0").exists()
            )


def test_msrun_with_a_taken_port_ends_by_itself(tmp_path, quickstart_model):
    """msrun looks at no port: its scheduler and ranks would wait for one another."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port, mark = other.getsockname()[1], uuid.uuid4().hex
        command = [
            "msrun",
            "--worker_num=2",
            "--local_worker_num=2",
            f"--master_port={port}",
            "--join=True",
            f"--log_dir={tmp_path}/log",
        ]
        program = [str(ROOT / "tests/job/waiting_ranks.py")]
        try:
            result = run([*command, *program], cwd=tmp_path, timeout=60, TEST_JOB=mark)
        finally:
            end_processes_of(mark)
    assert result.returncode != 0 and f"--master_port={port}: another program listens" in result.stdout, (
        result.stdout + result.stderr
    )
