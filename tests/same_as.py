"""The same small runs by two trees of this project, compared bit for bit (tests/same_as.sh starts it)."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from distributed.jobs import VERIFIERS
from distributed.small_runs import make_data, without_times
from helpers import ROOT, clean_environment, read_jsonl

from mindrlhf_lite.job.ports import free_port

QUICKSTART = ROOT / "examples/quickstart/model"
TENSOR = [f"--{role}_config.parallel_config.model_parallel=2" for role in ("actor", "ref")]


@dataclass(frozen=True)
class Case:
    """A run by settings on top of `_arguments`; `first_steps`: it ends after these, and is resumed to its end."""

    name: str
    settings: tuple[str, ...] = ()
    ranks: int = 1
    steps: int = 3
    first_steps: int = 0
    replays: bool = False
    is_small: bool = True  # tests/distributed/small_runs.py's one layer; else the quickstart's model


CASES = (
    Case("quickstart", steps=6, is_small=False),
    Case("quickstart_two_ranks", ranks=2, steps=6, is_small=False),
    Case(
        "four_ranks_swap",
        (*TENSOR, "--generate_config.parallel_config.data_parallel=4", "--rl_config.swap=true"),
        ranks=4,
        is_small=False,
    ),
    Case(
        "float16",
        (
            "--actor_config.compute_dtype=float16",
            "--actor_config.param_dtype=float16",
            "--actor_config.optimizer.opt_offload=true",
            "--actor_config.optimizer.opt_offload_bucket_mb=1",
            "--rl_config.swap=true",
        ),
    ),
    Case(
        "dapo",
        (
            "--preset",
            "dapo",
            "--rl_config.dynamic_sampling.enabled=true",
            "--rl_config.dynamic_sampling.max_attempts=2",
            "--rl_config.overlong.filter=true",
            "--rl_config.entropy_coeff=0.01",
        ),
    ),
    Case(
        "two_updates_recompute",
        (
            "--rl_config.batch_size=8",
            "--actor_config.recompute_config.recompute=true",
            "--rl_config.kl_ctrl.type=adaptive",
            "--generate_config.sampling_config.top_p=0.9",
            "--rl_config.rollout_is_cap=2",
        ),
    ),
    Case("moving_reference", ("--ref_config.sync_ref_model=true", "--ref_config.ref_model_sync_steps=2"), ranks=2),
    Case(
        "kl_in_reward",
        ("--rl_config.kl_in_reward=true", "--rl_config.loss=gspo", "--rl_config.advantage=rloo")
        + ("--rl_config.loss_aggregation=sequence_mean",),
    ),
    Case("resumed", ("--actor_config.lr_schedule.lr_decay_style=cosine",), steps=6, first_steps=4),
    Case("pipeline", ("--actor_config.parallel_config.pipeline_stage=2",), ranks=2, is_small=False),
    Case("vllm", ("--generate_config.use_vllm=1",)),
    Case("replay", steps=3, replays=True),
)


def _arguments(case: Case, data: Path, output: Path, steps: int) -> list[str]:
    sizes = (4, 4, 16) if case.is_small else (8, 8, 32)
    return [
        "--config",
        str(ROOT / "examples/quickstart/grpo_config.yaml"),
        "--actor_checkpoint_path",
        str(data / "model" if case.is_small else QUICKSTART),
        "--dataset_file",
        str(data / "train.mindrecord"),
        f"--rl_config.eval_dataset_file={data / 'held_out.mindrecord'}",
        f"--rl_config.output_dir={output}",
        f"--rl_config.chunk_size={sizes[0]}",
        f"--rl_config.num_generations={sizes[1]}",
        f"--generate_config.max_num_seqs={sizes[2]}",
        f"--rl_config.max_steps={steps}",
        f"--actor_config.lr_schedule.decay_steps={case.steps}",
        "--rl_config.save_ckpt_interval=2",
        "--rl_config.eval_interval=3",
        "--verifier_function",
        "verifiers_for_runs.length_modulo,format_reward",
        "--monitor_config.plots=false",
        "--context.num_threads=1",
        *case.settings,
    ]


def _start(tree: Path, log: Path, ranks: int, script: str, arguments: list[str]) -> None:
    """Runs a script of a tree to its end; raises RuntimeError, with the end of its log, if it fails."""
    command = [sys.executable, str(tree / script), *arguments]
    if ranks > 1:
        ports = ["--master_addr=127.0.0.1", f"--master_port={free_port()}", f"--log_dir={log.with_suffix('')}"]
        numbers = [f"--worker_num={ranks}", f"--local_worker_num={ranks}", "--join=True"]
        command = ["msrun", *numbers, *ports, str(tree / script), *arguments]
    with log.open("wb") as file:
        code = subprocess.run(
            command, cwd=log.parent, stdout=file, stderr=file, env=clean_environment(PYTHONPATH=f"{tree}:{VERIFIERS}")
        ).returncode
    if code:
        raise RuntimeError(f"{' '.join(command)}\nended with {code}:\n{log.read_text(errors='replace')[-3000:]}")


def run_case(case: Case, tree: Path, data: Path, folder: Path) -> Path:
    """Returns the run's output folder."""
    folder.mkdir(parents=True)
    output, main = folder / "run", "examples/qwen_grpo/main.py"
    record = [f"--rl_config.save_data_file={folder / 'experience'}"] if case.replays else []
    if case.first_steps:
        _start(tree, folder / "first.log", case.ranks, main, _arguments(case, data, output, case.first_steps))
        record = ["--resume_training", "true"]
    _start(tree, folder / "run.log", case.ranks, main, [*_arguments(case, data, output, case.steps), *record])
    if case.replays:
        files = sorted(str(path) for path in folder.glob("experience*"))
        again = [word for word in _arguments(case, data, folder / "again", case.steps) if "save_ckpt" not in word]
        _start(tree, folder / "replay.log", 1, "tools/replay.py", [*again, "--data", *files])
    return folder


def differences(one: Path, other: Path) -> list[str]:
    """What two folders of a case differ in: metrics but times, completions, weights and moments."""

    def files(folder: Path, pattern: str) -> dict[str, Path]:
        return {str(path.relative_to(folder)): path for path in sorted(folder.glob(pattern))}

    readers: dict[str, Callable[[Path], object]] = {
        "**/metrics.jsonl": lambda path: without_times(read_jsonl(path)),
        "**/completions/*.jsonl": Path.read_bytes,
        "**/*.safetensors": Path.read_bytes,
    }
    found = []
    for pattern, read in readers.items():
        ones, others = files(one, pattern), files(other, pattern)
        if not ones:
            found.append(f"{pattern}: no such file")
        found += [f"{name}: in one of them only" for name in ones.keys() ^ others.keys()]
        found += [name for name in ones.keys() & others.keys() if read(ones[name]) != read(others[name])]
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="the other tree")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], help="cases (default: all)")
    parser.add_argument("--list", action="store_true", help="print the cases and their settings, and end")
    options = parser.parse_args()
    chosen = [case for case in CASES if not options.only or case.name in options.only]
    if options.list:
        print(
            "\n".join(
                f"{case.name}: {case.ranks} rank(s), {case.steps} steps {' '.join(case.settings)}" for case in CASES
            )
        )
        return
    data, failed = make_data(options.folder / "data"), 0
    for case in chosen:
        folders = [options.folder / case.name / name for name in ("there", "here")]
        with ThreadPoolExecutor(2 if case.ranks == 1 else 1) as pool:  # no more ranks than cores at once
            list(pool.map(run_case, [case] * 2, (options.tree, ROOT), [data] * 2, folders))
        found = differences(*folders)
        failed += bool(found)
        print(f"{case.name}: {'differs in ' + ', '.join(found) if found else 'equal'}", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} cases equal to {options.name}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
