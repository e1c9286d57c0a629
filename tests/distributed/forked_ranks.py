"""What msrun does for a job of one host, with forks of this process as scheduler and ranks, which have its imports.

For the workers of tests, which prove what ranks compute; that msrun starts runs is proven by tests of whole runs.

Arguments: how many ranks, the folder of their logs, the scheduler's port, the script, its arguments.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from warm import run_as_main


def start(role: str, rank: int, num_ranks: int, log_dir: Path, port: str, command: list[str]) -> int:
    """The process number of a fork that runs the command as this rank."""
    if pid := os.fork():
        return pid
    name = "scheduler.log" if role == "MS_SCHED" else f"worker_{rank}.log"
    handle = os.open(log_dir / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in (1, 2):
        os.dup2(handle, number)
    os.environ |= {"MS_WORKER_NUM": str(num_ranks), "RANK_SIZE": str(num_ranks), "MS_ROLE": role, "RANK_ID": str(rank)}
    os.environ |= {"MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": port, "MS_TOPO_TIMEOUT": "600"}
    if role == "MS_WORKER":
        os.environ |= {"MS_NODE_ID": str(rank), "DEVICE_ID": str(rank)}
    sys.argv = command
    os._exit(run_as_main(command[0]))


def main() -> None:
    num_ranks, log_dir, port, command = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:]
    log_dir.mkdir(parents=True, exist_ok=True)
    places = [("MS_SCHED", 0), *(("MS_WORKER", rank) for rank in range(num_ranks))]
    living = {start(role, rank, num_ranks, log_dir, port, command): (role, rank) for role, rank in places}
    code = 0
    while living:
        pid, status = os.wait()
        ended = os.waitstatus_to_exitcode(status)
        place = living.pop(pid)
        if ended and not code:  # the others would wait for it
            code = 1
            print(*place, "ended with", ended)
            for other in living:
                os.kill(other, signal.SIGKILL)
    sys.exit(code)


main()
