"""Starts a job under msrun, shows what its ranks say, ends it as a whole. The scripts in examples/ call it.

msrun's own messages go to LOG_DIR/msrun.log. With an option of the script that starts nothing (--dry_run,
--only_save_strategy, --help) the script alone runs, once, for so many ranks.

Exit codes: 0 done, 1 a rank failed, 2 the user's settings or data are wrong, 130 and 143 stopped by Ctrl-C and SIGTERM.

Examples:
  python -m mindrlhf_lite.job --ranks 2 --log_dir msrun_log examples/qwen_grpo/main.py --config grpo_config.yaml
  python -m mindrlhf_lite.job --ranks 4 --local_ranks 2 --node_rank 1 --master_addr 10.0.0.1 --master_port 8118 \\
      --log_dir log main.py --config grpo_config.yaml
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mindrlhf_lite.commands.progress import TERMINAL_VARIABLE
from mindrlhf_lite.commands.signals import STOP_FILE_VARIABLE
from mindrlhf_lite.commands.tool import USER_ERROR, fail, tool_parser
from mindrlhf_lite.files.text_file import let_console_show_anything, write_text
from mindrlhf_lite.job import SECOND_NODE_VARIABLE
from mindrlhf_lite.job.guard import STATUS_VARIABLE
from mindrlhf_lite.job.guarded_rank import GUARDED_VARIABLE, forget_hint, guard_command
from mindrlhf_lite.job.key import KEY_VARIABLE, new_key
from mindrlhf_lite.job.lifelines import die_with_parent
from mindrlhf_lite.job.limits import why_no_process
from mindrlhf_lite.job.ports import free_port, is_taken, taken_message
from mindrlhf_lite.native.large_pages import large_pages

_STARTS_NOTHING = frozenset({"dry_run", "dryrun", "only_save_strategy", "h", "help"})  # also as they are mistyped
_OF_MSRUN = (b"Start scheduler process", b"Start worker process")


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__ or "")
    parser.add_argument("--ranks", type=int, required=True, help="ranks of the job, over all nodes")
    parser.add_argument("--local_ranks", type=int, help="ranks that this node starts (default: all)")
    parser.add_argument("--node_rank", type=int, default=-1, help="this node, from 0 (default: one node)")
    parser.add_argument("--master_addr", default="127.0.0.1", help="address of node 0 (default: 127.0.0.1)")
    parser.add_argument(
        "--master_port", type=int, default=0, help="a free port there; 0: chosen, for one node (default: 0)"
    )
    parser.add_argument(
        "--cluster_time_out", type=int, default=600, help="seconds that nodes wait for one another (default: 600)"
    )
    parser.add_argument("--log_dir", default="msrun_log", help="where every rank's log goes (default: msrun_log)")
    parser.add_argument("script", help="what every rank runs")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    return parser.parse_args()


def _flag_name(word: str) -> str:
    return word.partition("=")[0].lstrip("-").replace("-", "_") if word.startswith("-") else ""


def run(args: argparse.Namespace) -> int:
    """The job's exit code."""
    local = args.local_ranks or args.ranks
    if not Path(args.script).is_file():
        fail(f"{args.script}: no such script")
    if any(_flag_name(word) in _STARTS_NOTHING for word in args.arguments):
        environment = {**os.environ, "MS_WORKER_NUM": str(args.ranks), "LOCAL_RANKS": str(local)}
        return subprocess.call([sys.executable, args.script, *args.arguments], env=environment)
    port = _checked_port(args, local)
    log_dir = Path(args.log_dir)
    log_dir.mkdir(parents=True, exist_ok=True)
    files = _JobFiles(log_dir / f"job_status_{os.getpid()}", log_dir / f"job_stop_{os.getpid()}")
    environment = _environment(args, local, files)
    first_log = log_dir.absolute() / f"worker_{max(args.node_rank, 0) * local}.log"
    forget_hint(first_log)
    job = _start_msrun(_msrun_command(args, local, port), log_dir, environment)
    guard = subprocess.Popen(
        guard_command(job.pid, first_log),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env={**environment, "MS_WORKER_NUM": str(args.ranks)},  # whether other hosts have ranks too
    )
    received = _listen(job, files)
    assert job.stdout is not None
    copier = threading.Thread(target=_copy, args=(job.stdout,))
    copier.start()
    while copier.is_alive():
        copier.join(0.2)  # signals are taken between
    code = job.wait()
    guard.wait()
    code = 128 + received[0] if received else _found_code(code, files.status, log_dir)
    files.remove()
    return code


@dataclass(frozen=True)
class _JobFiles:
    """What this program, its guard and its ranks tell one another by."""

    status: Path  # why the job was ended, then its exit code
    stop: Path  # there: the run is to stop after this step

    @property
    def saves(self) -> Path:
        """There: the run stops by itself at SIGTERM, with a checkpoint (rl_config.on_sigterm=save)."""
        return self.stop.with_suffix(".saves")

    def remove(self) -> None:
        for leftover in (self.status, self.stop, self.saves):
            leftover.unlink(missing_ok=True)


def _checked_port(args: argparse.Namespace, local: int) -> int:
    """The port where node 0 is to be met; ends the program where the numbers do not go together, or it is taken."""
    if not 1 <= local <= args.ranks:
        fail(f"--ranks {args.ranks} --local_ranks {local}: at least one rank, and no more here than in all")
    if args.master_port == 0 and local != args.ranks:
        fail("--master_port: needed when there are other nodes")
    if not 0 <= args.master_port < 65536:
        fail(f"--master_port {args.master_port}: a number from 1 to 65535 is needed, or 0 to choose one")
    port = args.master_port or free_port()
    if args.node_rank <= 0 and is_taken(args.master_addr, port):
        fail(taken_message("--master_port", args.master_addr, port))
    return int(port)


def _msrun_command(args: argparse.Namespace, local: int, port: int) -> list[str]:
    return [
        str(Path(sys.executable).with_name("msrun")),
        f"--worker_num={args.ranks}",
        f"--local_worker_num={local}",
        f"--master_addr={args.master_addr}",
        f"--master_port={port}",
        f"--node_rank={args.node_rank}",
        f"--cluster_time_out={args.cluster_time_out}",
        "--join=True",
        f"--log_dir={Path(args.log_dir)}",
        *(args.script, *args.arguments),
    ]


def _environment(args: argparse.Namespace, local: int, files: _JobFiles) -> dict[str, str]:
    """Of msrun and its ranks."""
    # msrun starts its ranks with the first python on the PATH
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {
        "GLOG_v": "3",
        **os.environ,
        **large_pages(os.environ),
        "PATH": path,
        STATUS_VARIABLE: str(files.status.absolute()),
        STOP_FILE_VARIABLE: str(files.stop.absolute()),
        GUARDED_VARIABLE: "1",
        "LOCAL_RANKS": str(local),
    }
    if sys.stdout.isatty():
        environment[TERMINAL_VARIABLE] = "1"
    if local == args.ranks:
        environment.setdefault(KEY_VARIABLE, new_key())
    if args.node_rank > 0:
        environment[SECOND_NODE_VARIABLE] = "1"
    return environment


def _start_msrun(command: list[str], log_dir: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with (log_dir / "msrun.log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env=environment,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),  # and the guard ends the ranks
        )


def _listen(job: subprocess.Popen[bytes], files: _JobFiles) -> list[int]:
    """From now on signals end the job. Returns those that come, a list that grows."""
    received: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if number == signal.SIGTERM and files.saves.exists() and not files.stop.exists():
            files.stop.touch()
            print("\nSIGTERM: the run stops after this step, with a checkpoint", file=sys.stderr, flush=True)
            return
        if not received:
            why = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
            write_text(files.status, f"{why}\n")
        received.append(number)
        job.terminate()  # the guard ends the ranks, and says so

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, stop)
    return received


def _found_code(code: int, status: Path, log_dir: Path) -> int:
    """The job's exit code, where nobody stopped it. Args: code: msrun's own."""
    if status.is_file():
        return int(status.read_text(encoding="ascii"))  # what the guard found
    if code == 0:
        return 0
    print(
        f"error: msrun ended with exit code {code}; see {log_dir}/msrun.log and {log_dir}/worker_0.log",
        file=sys.stderr,
    )
    return 1 if code != USER_ERROR else code


def _copy(source: IO[bytes]) -> None:
    """What the job prints, as it comes, without msrun's lines."""
    out = sys.stdout.buffer
    rest, begins_line = b"", True
    while data := os.read(source.fileno(), 1 << 16):
        rest += data
        while rest:
            line, newline, after = rest.partition(b"\n")
            may_be_msruns = begins_line and any(line.startswith(start) or start.startswith(line) for start in _OF_MSRUN)
            if may_be_msruns and not newline:
                break  # the rest of the line is to come
            if not may_be_msruns:
                with contextlib.suppress(BrokenPipeError):  # nobody looks any more; the job goes on
                    out.write(line + newline)
            rest, begins_line = after, bool(newline)
        with contextlib.suppress(BrokenPipeError):
            out.flush()


def main() -> None:
    let_console_show_anything()
    args = parse_arguments()
    try:
        sys.exit(run(args))
    except OSError as error:  # no room for its logs, no further process
        print(f"error: {why_no_process(error) or error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
