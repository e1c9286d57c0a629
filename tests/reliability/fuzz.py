"""Damaged files: every kind that the project reads, with bits flipped, bytes lost, zeroed, doubled or cut, at random
places.

    python tests/reliability/fuzz.py [--cases 10000] [--seed 0]

A damaged file ends in a UserError, which names it, or, for a checkpoint, in the older one being used. Never in another
exception, a crash, a hang, or, where the project wrote check sums (checkpoints, MindRecord), in other values than those
that were written. Weights in Hugging Face's and GGUF's formats, and tokenizers, have no sums: there, what can be read
is taken as it is.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import numpy as np

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
}


def make_files(folder: Path) -> None:
    """Small files of every kind."""
    from gguf_files import SHAPE, write_gguf
    from helpers import TINY, random_weights

    from mindrlhf_lite.checkpoint.store import Checkpoint, CheckpointStore
    from mindrlhf_lite.checkpoint.transform import open_checkpoint, write_mindformers
    from mindrlhf_lite.data.records import write_prompts
    from mindrlhf_lite.models.hf_weights import save_hf_model
    from mindrlhf_lite.types import Prompt

    quickstart = Path(__file__).resolve().parents[2] / "examples/quickstart/model"
    save_hf_model(folder / "hf", TINY, random_weights(TINY), 3, 4)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(quickstart / name, folder / "hf" / name)
    write_gguf(folder / "model.gguf", SHAPE, random_weights(SHAPE), "Q4_1")
    write_mindformers(open_checkpoint(folder / "hf"), folder / "weights.ckpt", lambda count: None, None)
    write_prompts(
        folder / "data.mindrecord", [Prompt(n, (n + 1, n + 2), f"text {n}", str(n), n, "s") for n in range(20)]
    )
    store = CheckpointStore(folder / "ckpt", 2)
    for step in (1, 2):
        values = {"a": np.arange(3000, dtype=np.float32) * step}
        store.save(Checkpoint(step, {"number": step}, values, lambda scratch: _copy_tokenizer(folder / "hf", scratch)))


def _copy_tokenizer(source: Path, scratch: Path) -> None:
    (scratch / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(source / name, scratch / "tokenizer" / name)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one fault."""
    place, kind = rng.randrange(len(data)), rng.randrange(6)
    size = rng.choice([1, 4, 64, 1024])
    if kind == 0:
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if kind == 1:
        return data[:place]
    if kind == 2:
        return data[:place] + bytes(min(size, len(data) - place)) + data[place + size :]
    if kind == 3:
        return data[:place] + data[place + size :]
    if kind == 4:
        return data[:place] + data[place : place + size] + data[place:]
    return data[:place] + rng.randbytes(min(size, len(data) - place)) + data[place + size :]


def read(kind: str, folder: Path) -> object:
    """What the project makes of the files: comparable, where it has check sums."""
    from mindrlhf_lite.checkpoint.store import CheckpointStore
    from mindrlhf_lite.checkpoint.transform import open_gguf, open_mindformers, transform
    from mindrlhf_lite.data.records import read_file
    from mindrlhf_lite.data.tokenizer import Tokenizer
    from mindrlhf_lite.models.hf_weights import load_weights
    from mindrlhf_lite.shapes.model_config import ModelConfig

    if kind == "checkpoint":
        saved, _ = CheckpointStore(folder / "ckpt", 2).load_newest()
        return saved and (saved.step, saved.state, saved.tensors(0)["a"].tobytes())
    if kind == "mindrecord":
        return read_file(folder / "data.mindrecord")[1]
    if kind == "hugging_face":
        return len(load_weights(folder / "hf", ModelConfig.from_dir(folder / "hf")))
    if kind == "mindformers":
        transform(open_mindformers(folder / "weights.ckpt", folder / "hf"), folder / "converted", None)
        return None
    if kind == "gguf":
        transform(open_gguf(folder / "model.gguf"), folder / "converted", None)
        return None
    return len(Tokenizer(str(folder / "hf")).encode("12+34= <think>"))


def run_batch(template: str, kind: str, seeds: list[int]) -> list[tuple[int, str]]:
    """(seed, outcome) of cases: "refused", "read", or what went wrong."""
    from mindrlhf_lite.errors import UserError

    def expire(number: int, frame: object) -> None:
        raise TimeoutError(f"no end after {SECONDS} s")

    signal.signal(signal.SIGALRM, expire)
    whole = {"checkpoint": (2, 1)}.get(kind)
    with tempfile.TemporaryDirectory() as scratch:
        expected = read(kind, Path(template)) if kind in ("checkpoint", "mindrecord") else None
        outcomes = []
        for seed in seeds:
            rng, folder = random.Random(seed), Path(scratch) / str(seed)
            shutil.copytree(template, folder)
            name = rng.choice(KINDS[kind])
            original = (folder / name).read_bytes()
            changed = damaged(original, rng)
            (folder / name).write_bytes(changed)
            signal.alarm(SECONDS)
            try:
                found = read(kind, folder)
                outcome = "read" if kind not in ("checkpoint", "mindrecord") or found == expected else "other values"
                if kind == "checkpoint" and found and found[0] == whole[1]:
                    outcome = "older one used"
            except UserError:
                outcome = "refused"
            except BaseException as error:
                outcome = f"{type(error).__name__}: {str(error)[:200]}"
            finally:
                signal.alarm(0)
            if outcome not in ("read", "refused", "older one used"):
                outcome = f"{name}: {outcome}"
            outcomes.append((seed, outcome))
            shutil.rmtree(folder)
    return outcomes


def run(num_cases: int, seed: int, processes: int = 2) -> dict[str, Counter[str]]:
    """Outcomes by kind."""
    found: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    with tempfile.TemporaryDirectory() as template:
        make_files(Path(template))
        batches = []
        for index, kind in enumerate(KINDS):
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
    args = parser.parse_args()
    wrong = 0
    for kind, outcomes in run(args.cases, args.seed).items():
        print(f"{kind}: {sum(outcomes.values())} cases")
        for outcome, count in outcomes.most_common():
            print(f"  {count:6} {outcome}")
            wrong += count * (outcome not in ("read", "refused", "older one used"))
    print(f"{wrong} of {args.cases} went wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
