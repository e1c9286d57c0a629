"""Damaged files: every kind that the project reads, with bits flipped, bytes lost, zeroed, doubled or cut, at random
places; JSON and YAML also with a value or key that nobody expects there (mutations.py).

    python tests/reliability/fuzz.py [--cases 10000] [--seed 0]

A damaged file ends in a UserError (or an OSError), which names it, or, for a checkpoint, in the older one being used.
Never in another exception, a crash, a hang, or, where the project wrote check sums (checkpoints, MindRecord), in other
values than those that were written. Weights in Hugging Face's and GGUF's formats, tokenizers, configurations and the
files of runs have no sums: there, what can be read is taken as it is.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout, suppress
from multiprocessing import get_context
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from reliability.fuzz_files import READERS
from reliability.fuzz_makers import make_files
from reliability.mutations import damaged, misleading

from mindrlhf_lite.errors import UserError

SECONDS = 60  # of one case
BATCH = 50  # cases of one process
# what is read, and which of its files are damaged in turn
KINDS = {
    "checkpoint": (
        "ckpt/step_2/rank_00000.safetensors",
        "ckpt/step_2/state.json",
        "ckpt/step_2/manifest.json",
        "ckpt/step_2/tokenizer/vocab.json",
    ),
    "mindrecord": ("data.mindrecord", "data.mindrecord.db"),
    "hugging_face": ("hf/model.safetensors", "hf/config.json"),
    "mindformers": ("weights.ckpt",),
    "gguf": ("model.gguf",),
    "tokenizer": ("hf/vocab.json", "hf/merges.txt", "hf/tokenizer_config.json"),
    "index": ("parts/model.safetensors.index.json",),
    "strategy": ("step/state.json", "step/config.json", "shards/strategy.json", "shards/config.json"),
    "run": (
        *("run/metrics.jsonl", "run/summary.json", "run/completions/step_000040.jsonl"),
        *("run/completions/eval_000000.jsonl", "run/completions/eval_000040.jsonl"),
    ),
    "configuration": (
        *("ours.yaml", "small.yaml", "theirs/mindrlhf.yaml", "theirs/mindspeed_rl.yaml", "theirs/model/small.yaml"),
        *("theirs/mindformers.yaml", "hf/config.json"),
    ),
    "questions": ("data.jsonl", "data.json", "data.yaml"),
    "experience": ("grpo_000001.mindrecord", "grpo_000001.mindrecord.db"),
    "dump": ("dump/step_000001/rank_00000.jsonl",),
    "answers": ("answers.jsonl",),
}
_TEXTS = (".json", ".jsonl", ".yaml")
_SEALED = ("checkpoint", "mindrecord", "experience")


def _place(error: BaseException) -> str:
    """The line of the project that an error came through last."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "mindrlhf_lite" in each.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside"


@functools.cache
def _warm_up(kind: str, template: str) -> None:
    """Imports what a kind needs, however long that takes: an import that is broken off breaks all later cases."""
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(io.StringIO()), suppress(UserError):
        shutil.copytree(template, Path(scratch) / "files", copy_function=os.link)
        READERS[kind](Path(scratch) / "files")


def run_batch(template: str, kind: str, seeds: list[int]) -> list[tuple[int, str]]:
    """(seed, outcome) of cases: "refused", "read", or what went wrong."""

    def expire(number: int, frame: object) -> None:
        raise TimeoutError(f"no end after {SECONDS} s")

    signal.signal(signal.SIGALRM, expire)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        expected = READERS[kind](Path(template)) if kind in _SEALED else None
        _warm_up(kind, template)
        outcomes = []
        for seed in seeds:
            rng, folder = random.Random(seed), Path(scratch) / str(seed)
            shutil.copytree(template, folder, copy_function=os.link)
            name = rng.choice(KINDS[kind])
            original = (folder / name).read_bytes()
            is_said = name.endswith(_TEXTS) and rng.random() < 0.7
            (folder / name).unlink()  # it is the template's own
            (folder / name).write_bytes(misleading(name, original, rng) if is_said else damaged(original, rng))
            signal.alarm(SECONDS)
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    found = READERS[kind](folder)
                outcome = "read" if kind not in _SEALED or found == expected else "other values"
                if kind == "checkpoint" and isinstance(found, tuple) and found[0] == 1:
                    outcome = "older one used"
            except (UserError, OSError):
                outcome = "refused"
            except BaseException as error:
                outcome = f"{_place(error)}: {type(error).__name__}: {str(error)[:150]!r}"
            finally:
                signal.alarm(0)
            if outcome not in ("read", "refused", "older one used"):
                outcome = f"{name}: {outcome}"
            outcomes.append((seed, outcome))
            shutil.rmtree(folder)
    return outcomes


def run(num_cases: int, seed: int, processes: int = 2, only: Sequence[str] = ()) -> dict[str, Counter[str]]:
    """Outcomes by kind. Args: only: of these kinds, their share of the cases; empty: all."""
    found: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS if not only or kind in only}
    with tempfile.TemporaryDirectory() as template:
        make_files(Path(template))
        batches = []
        for index, kind in ((index, kind) for index, kind in enumerate(KINDS) if kind in found):
            seeds = list(range(seed * 1_000_000 + index, seed * 1_000_000 + num_cases, len(KINDS)))
            batches += [(kind, seeds[start : start + BATCH]) for start in range(0, len(seeds), BATCH)]
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            futures = [(kind, seeds, pool.submit(run_batch, template, kind, seeds)) for kind, seeds in batches]
            for kind, seeds, future in futures:
                try:
                    found[kind].update(outcome for _, outcome in future.result())
                except BrokenProcessPool:
                    found[kind][f"a process crashed on one of the seeds {seeds[0]} to {seeds[-1]}"] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[], help="only these kinds' share of the cases")
    args = parser.parse_args()
    wrong = 0
    found = run(args.cases, args.seed, only=args.kinds)
    for kind, outcomes in found.items():
        print(f"{kind}: {sum(outcomes.values())} cases")
        for outcome, count in outcomes.most_common():
            print(f"  {count:6} {outcome}")
            wrong += count * (outcome not in ("read", "refused", "older one used"))
    print(f"{wrong} of {sum(outcomes.total() for outcomes in found.values())} went wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
