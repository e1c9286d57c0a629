"""Kills -9 a rank of a two-rank run again and again, resumes it, and compares what is on disk with a run that was never
killed.

    python tests/reliability/kill_points.py [--points 200] [--first 1] [--seed 0] [--folder DIR]

One run is killed at all points in turn: in every phase of a step (generate, reward, reference, update, reshard, save,
evaluate), some milliseconds after it began, and before or after a file operation below the program (rank 0: open,
write, fsync, rename, unlink, mkdir; rank 1: open, write, fsync; faults.c). Where a run does not come to its point, it
is killed a few steps later, wherever it is. A run that has gone far is killed while it exports its model, then resumed
to its end, and the next one begins anew.

After every kill, the guard must have said that this rank was killed; the newest checkpoint has to be whole, of no
earlier step than the last one whose metrics were shown before it was saved, and equal, bit for bit, to the same step's
of the run that was not killed: weights, moments, sampler, evaluations; so do the metrics and completions of all steps
up to it, times aside. A run that came to its end has exported the same model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from distributed.jobs import VERIFIERS, end_processes_of, free_port
from distributed.small_runs import MAIN, arguments, make_data, without_times
from helpers import clean_environment, read_jsonl
from reliability.shim import built, faults

from mindrlhf_lite.checkpoint.store import CheckpointStore
from mindrlhf_lite.commands.progress import TERMINAL_VARIABLE
from mindrlhf_lite.job.processes import Process

PHASES = ("generate", "reward", "reference", "update", "reshard", "save", "evaluate")
# of each rank, and how many of them happen within about three steps; rank 1 writes one file a step
OPERATIONS = (
    {"open": 14, "write": 40, "fsync": 30, "rename": 6, "unlink": 12, "mkdir": 6},
    {"open": 3, "write": 3, "fsync": 3},
)
STEPS, EXPORTS_AFTER = 24, 14
PATIENCE = 6  # steps in which a point should have been met
LAYOUT = (
    "--actor_config.enable_parallel_optimizer=true",
    "--generate_config.parallel_config.model_parallel=2",
    "--rl_config.beta=0.01",
    "--rl_config.save_ckpt_interval=1",
    "--rl_config.eval_interval=2",
    "--rl_config.eval_max_prompts=4",
    "--monitor_config.progress_bar=true",
    "--rl_config.chunk_size=2",
    "--generate_config.max_num_seqs=8",
    "--generate_config.sampling_config.max_tokens=8",
)
TOGETHER = 240  # seconds that a start, a step and a kill may take


@dataclass(frozen=True)
class Point:
    """Where to kill: a phase and how long after its beginning, or a file operation and its number."""

    rank: int
    phase: str = ""
    delay_s: float = 0.0
    occurrence: int = 1
    operation: str = ""
    kind: str = "kill"
    folder: str = "/killed/"  # what is in the paths of the operations that count

    @property
    def is_of_export(self) -> bool:
        return self.phase == "finish" or self.folder != "/killed/"

    def __str__(self) -> str:
        where = (
            f"{self.phase} {self.occurrence} +{self.delay_s:.3f} s"
            if self.phase
            else f"{self.kind} at {self.operation} {self.occurrence}{' of the export' * self.is_of_export}"
        )
        return f"rank {self.rank}: {where}"


def points(count: int, seed: int) -> list[Point]:
    """`count` points, half of them file operations, the kinds in turn."""
    rng, found = random.Random(seed), []
    for number in range(count):
        rank = number // 2 % 2
        if number % 2:
            limits = OPERATIONS[rank]
            operation = list(limits)[number // 4 % len(limits)]
            occurrence = rng.randint(1, limits[operation])
            found.append(Point(rank, operation=operation, occurrence=occurrence, kind=rng.choice(["kill", "killed"])))
        else:
            phase = PHASES[number // 2 % len(PHASES)]
            found.append(Point(rank, phase=phase, delay_s=rng.random() ** 2 * 0.3, occurrence=rng.randint(1, 3)))
    return found


def export_point(number: int, rng: random.Random) -> Point:
    """While the model is exported, the kinds in turn."""
    if number % 4 < 2:
        return Point(number % 2, phase="finish", delay_s=rng.random() ** 2 * 0.5)
    limits = {"open": 4, "write": 4, "fsync": 3, "rename": 1}  # of rank 0, which has all of the model
    operation = rng.choice(list(limits))
    occurrence = rng.randint(1, limits[operation])
    return Point(
        0, operation=operation, occurrence=occurrence, kind=rng.choice(["kill", "killed"]), folder="/killed/.hf"
    )


class Job:
    """A two-rank run under msrun."""

    def __init__(self, data: Path, output: Path, log_dir: Path, *extra: str, **environment: str):
        self.log_dir, self.mark = log_dir, f"kill_{os.getpid()}_{time.monotonic_ns()}"
        shutil.rmtree(log_dir, ignore_errors=True)
        command = ["msrun", "--worker_num=2", "--local_worker_num=2", "--master_addr=127.0.0.1", "--join=True"]
        command += [f"--master_port={free_port()}", f"--log_dir={log_dir}", str(MAIN)]
        command += [
            str(word)
            for word in arguments(
                data, output, *LAYOUT, f"--rl_config.eval_dataset_file={data / 'held_out.mindrecord'}", *extra
            )
        ]
        # the bar says every phase at once, lines do so rarely
        environment = clean_environment(
            PYTHONPATH=VERIFIERS, TEST_JOB=self.mark, **{TERMINAL_VARIABLE: "1"}, **environment
        )
        self.console = log_dir.with_suffix(".console")
        streams = {"stdout": self.console.open("w"), "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command, cwd=log_dir.parent, **streams, env=environment)

    def text(self, rank: int) -> str:
        path = self.log_dir / f"worker_{rank}.log"
        return path.read_text(errors="replace") if path.is_file() else ""

    def rank_process(self, rank: int) -> Process | None:
        msrun = Process.find(self.process.pid)
        for child in msrun.children() if msrun else []:
            environment = child.environment()
            if environment.get("MS_ROLE") == "MS_WORKER" and environment.get("RANK_ID") == str(rank):
                return child
        return None

    def kill_at(self, point: Point) -> str:
        """Kills the rank when the phase has begun so often, or has the file operation kill it; if that does not come,
        some steps later. Returns where else it was, or "".
        """
        deadline = time.monotonic() + TOGETHER
        while time.monotonic() < deadline and self.process.poll() is None:
            text = self.text(0)
            is_late = not point.is_of_export and text.count("training save") > PATIENCE
            if is_late or (point.phase and text.count(f"training {point.phase}") >= point.occurrence):
                time.sleep(point.delay_s)
                found = self.rank_process(point.rank)
                if found is not None:
                    os.kill(found.pid, signal.SIGKILL)
                    return "not met, killed later" if is_late else ""
            time.sleep(0.002)
        return ""

    def wait(self) -> int:
        """msrun's exit code, once the guard has said why, too."""
        try:
            code = self.process.wait(TOGETHER)
            deadline = time.monotonic() + 10 * bool(code)
            while time.monotonic() < deadline and "was killed by" not in self.console.read_text(errors="replace"):
                time.sleep(0.05)
            return code
        finally:
            end_processes_of(self.mark)


def differences(reference: Path, killed: Path) -> tuple[int, list[str]]:
    """(newest step on disk, what is not as in the reference run)."""
    store = CheckpointStore(killed / "checkpoints", 3)
    steps = store.steps()
    found = [problem for step in steps if (problem := store.problem(step)) is not None]
    if not steps:
        return 0, found
    newest = steps[0]
    for name in ("rank_00000.safetensors", "rank_00001.safetensors"):
        mine, theirs = (
            json.loads((run / f"checkpoints/step_{newest}/manifest.json").read_text())["files"]
            for run in (killed, reference)
        )
        if mine[name] != theirs[name]:
            found.append(f"step {newest}: {name} differs")
    states = [json.loads((run / f"checkpoints/step_{newest}/state.json").read_text()) for run in (killed, reference)]
    for key in ("updates_done", "sampler", "prompts_digest", "evaluations"):
        if states[0][key] != states[1][key]:
            found.append(f"step {newest}: state {key} differs")
    rows = [
        without_times([row for row in read_jsonl(run / "metrics.jsonl") if row["step"] <= newest])
        for run in (killed, reference)
    ]
    if rows[0] != rows[1]:
        found.append(f"metrics up to step {newest} differ")
    for step in range(1, newest + 1):
        name = f"completions/step_{step:06d}.jsonl"
        if (killed / name).read_bytes() != (reference / name).read_bytes():
            found.append(f"{name} differs")
    return newest, found


def run(num_points: int, seed: int, folder: Path, say=print, first: int = 1) -> list[str]:
    """Kills at all points from the `first` on; returns what went wrong."""
    data, library, wanted = make_data(folder / "data"), built(folder), points(num_points, seed)
    steps = min(STEPS, max(8, 4 * num_points))
    say(f"the run that is not killed: {steps} steps")
    reference = Job(
        data,
        folder / "reference",
        folder / "reference_log",
        f"--rl_config.max_steps={steps}",
        "--rl_config.save_max_ckpt_num=100000",
    )
    code = reference.process.wait()
    end_processes_of(reference.mark)
    if code:
        return [f"the run that is not killed ended with {code}: {reference.text(0)[-2000:]}"]
    killed, wrong, newest, rng = folder / "killed", [], 0, random.Random(seed)
    settings = [f"--rl_config.max_steps={steps}", "--rl_config.save_max_ckpt_num=3", "--resume_training=true"]
    for number, planned in enumerate(wanted[first - 1 :], first):
        point = export_point(number, rng) if newest > EXPORTS_AFTER else planned
        shim = (
            faults(library, point.folder, point.kind, point.occurrence, point.operation, point.rank)
            if point.operation
            else {}
        )
        job = Job(data, killed, folder / "killed_log", *settings, **shim)
        where = job.kill_at(point)
        code, text, said = job.wait(), job.text(0), job.console.read_text(errors="replace")
        before, (newest, found) = newest, differences(folder / "reference", killed)
        if code == 0 or f"rank {point.rank} was killed by signal 9" not in said:
            found.append(f"the rank was not killed, or nobody said so (exit code {code}): {said[-300:]}")
        shown = max(map(int, re.findall(r"step +(\d+) \|", text)), default=before + 1)
        if newest < max(before, shown - 1):
            found.append(f"checkpoint {before} was there, step {shown} was shown, the newest is {newest}")
        say(
            f"{number:4} of {num_points}: {point}{f' ({where})' if where else ''}; newest checkpoint {newest}"
            f"{': ' + '; '.join(found) if found else ''}"
        )
        wrong += [f"{point}: {line}" for line in found]
        if point.is_of_export or number == num_points:
            found = ended_equal(Job(data, killed, folder / "killed_log", *settings), folder)
            say(f"     resumed to its end{': ' + '; '.join(found) if found else ''}")
            wrong += [f"{point}, resumed to the end: {line}" for line in found]
            shutil.rmtree(killed)
            newest = 0
    return wrong


def ended_equal(job: Job, folder: Path) -> list[str]:
    """What differs once the killed run has come to its end."""
    code, reference, killed = job.wait(), folder / "reference", folder / "killed"
    if code:
        return [f"it ended with {code}: {job.text(0)[-1000:]}"]
    found = differences(reference, killed)[1]
    for name in ("hf/model.safetensors", "hf/config.json"):
        if (reference / name).read_bytes() != (killed / name).read_bytes():
            found.append(f"{name} differs")
    names = [{path.name for path in (run / "hf").iterdir()} for run in (reference, killed)]
    if names[0] != names[1]:
        found.append(f"hf holds {sorted(names[1])}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=1, help="point to begin with, of --points")
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        start, wrong = time.monotonic(), run(args.points, args.seed, folder, partial(print, flush=True), args.first)
    print(
        f"{args.points - args.first + 1} kills in {(time.monotonic() - start) / 60:.1f} min, {len(wrong)} differences"
    )
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
