"""Starts Python scripts from a process that has MindSpore and transformers imported already: each runs in a fork of it,
which saves the five seconds of CPU time that these imports take.

A script is a process of its own as ever, with its arguments, environment, folder, output and exit code. What this does
not prove, tests/plain_build.py does, which starts every tool from nothing: that a script imports what it needs, and
that the interpreter ends well. Scripts that need torch or a hash seed of their own are started from nothing too.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from mindrlhf_lite.commands.tool import leave_torch_out, prepare_process
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.native.ending import end_as_done

ROOT = Path(__file__).resolve().parents[1]
START_S = 600  # for the imports, on a busy machine
PRELOADED = ("mindspore", "mindrlhf_lite.launch.rank", "mindrlhf_lite.trainer.grpo")


class WarmStarter:
    """The process that forks, and this process's pipes to it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def run(self, command: list[str], cwd: Path, environment: dict[str, str], timeout: float, given: bytes | str):
        """`command`, a script and its arguments, as subprocess.run would have this Python run it."""
        if self._process is None:
            # no buffer: what select does not see must not be read yet
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
            own = {**environment, "PYTHONPATH": str(ROOT)}
            self._process = subprocess.Popen([sys.executable, __file__], **pipes, env=own, cwd=ROOT)
            atexit.register(self._end)
        with tempfile.TemporaryDirectory() as scratch:
            request = {"command": command, "cwd": str(cwd), "environment": environment, "scratch": scratch}
            Path(scratch, "stdin").write_bytes(given if isinstance(given, bytes) else given.encode())
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            pid, code = self._answer(START_S), None
            try:
                code = self._answer(timeout)
            finally:
                if code is None:
                    os.killpg(pid, signal.SIGKILL)
                    self._answer(START_S)
            if code is None:
                raise subprocess.TimeoutExpired(command, timeout)
            texts = [Path(scratch, name).read_text(errors="replace") for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess([sys.executable, *command], code, *texts)

    def _end(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _answer(self, timeout: float) -> int | None:
        """The next number that the process says, or None when the time is up."""
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            return None
        return int(self._process.stdout.readline())

    def cpu_seconds(self) -> float:
        """Of the process and of all that it started."""
        if self._process is None:
            return 0.0
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def become(request: dict) -> str:
    """In a fork: takes the place of a fresh interpreter for the request. Returns its script."""
    os.setpgid(0, 0)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        handle = os.open(f"{request['scratch']}/{name}", os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["command"]
    script = sys.argv[0]
    searched = [word for word in os.environ.get("PYTHONPATH", "").split(os.pathsep) if word]
    sys.path[:2] = [str(Path(script).parent), *searched]  # in the place of this file's folder and PYTHONPATH
    return script


def run_as_main(script: str) -> int:
    """The script's exit code, once what is to run at the end of a process has run."""
    try:
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code
        if not isinstance(code, int):
            print(*[code] * (code is not None), file=sys.stderr, end="\n" * (code is not None))
            code = int(code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if code == 0 and os.environ.get("MS_ROLE") == "MS_WORKER":
        end_as_done()
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


def main() -> None:
    prepare_process()
    leave_torch_out()
    for name in PRELOADED:
        importlib.import_module(name)
    Tokenizer(str(ROOT / "examples/quickstart/model"))  # transformers imports what it needs when it is used
    gc.freeze()  # else a fork's first collection copies all that was imported
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    while line := sys.stdin.buffer.readline():
        pid = os.fork()
        if pid == 0:
            answers.close()
            os._exit(run_as_main(become(json.loads(line))))  # what was imported is not taken down
        print(pid, file=answers)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers)
    os._exit(0)


if __name__ == "__main__":
    main()
