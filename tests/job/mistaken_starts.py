"""Starts that end at once by a mistake in the settings, beside loops on every core: each says it once, with exit
code 2, and leaves nothing running.

    python tests/job/mistaken_starts.py [--starts 200] [--by msrun|job]

Exit code 1: some were not; their console texts are shown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from distributed.jobs import end_processes_of, living_processes_of
from helpers import ROOT, clean_environment

from mindrlhf_lite.job.ports import free_port

SECONDS = 60  # of a start, which takes a few on an idle machine
MISTAKES = (
    (["--rl_config.beta=high"], "the following arguments are required: --config"),
    (["--config", "none.yaml"], "--config none.yaml: no such file"),
    (
        ["--config", str(ROOT / "examples/quickstart/grpo_config.yaml"), "--rl_config.beta=high"],
        "rl_config.beta='high'",
    ),
)


def what_is_wrong(folder: Path, number: int, by_msrun: bool) -> str:
    """Of one start, or ""."""
    options, said = MISTAKES[number % len(MISTAKES)]
    program = [str(ROOT / "examples/qwen_grpo/main.py"), *options]
    counts = ["--worker_num=2", "--local_worker_num=2", "--join=True", f"--master_port={free_port()}"]
    job = [sys.executable, "-m", "mindrlhf_lite.job", "--ranks=2"]
    command = [*(["msrun", *counts] if by_msrun else job), f"--log_dir={folder}/log", *program]
    mark = uuid.uuid4().hex
    environment = clean_environment(TEST_JOB=mark, PYTHONPATH=str(ROOT))
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            env=environment,
            cwd=folder,
        )
        code, text = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        code, text = None, (error.stdout or b"").decode(errors="replace")
    deadline = time.monotonic() + 10
    while (left := living_processes_of(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    end_processes_of(mark)
    says_once = text.count("error:") == text.count(said) == 1
    if left or not says_once or (code in (0, None) if by_msrun else code != 2):
        return f"exit code {code}, left: {left}\n{text}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--by", choices=("job", "msrun"), default="job")
    args = parser.parse_args()
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    wrong, started = [], time.monotonic()
    try:
        for number in range(args.starts):
            with tempfile.TemporaryDirectory() as folder:
                if found := what_is_wrong(Path(folder), number, args.by == "msrun"):
                    wrong.append(found)
                    print(found, flush=True)
            print(f"\r{number + 1 - len(wrong)} of {number + 1}", end="", flush=True)
    finally:
        for loop in loops:
            loop.kill()
    seconds = time.monotonic() - started
    print(
        f"{args.starts - len(wrong)} of {args.starts} starts: said once, the exit code, nothing left ({seconds:.0f} s)"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
