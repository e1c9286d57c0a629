"""Small models and runs for tests."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from warm import WarmStarter

from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[1]
WARM = WarmStarter()
TINY = ModelConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rope_theta=10000.0,
    max_position_embeddings=256,
    tie_word_embeddings=False,
)


def random_weights(config: ModelConfig, seed: int = 0, scale: float = 0.3) -> dict[str, np.ndarray]:
    """Every parameter random, biases and norms too, so that none can be left out unnoticed."""
    rng = np.random.default_rng(seed)
    weights = {}
    for spec in parameter_specs(config):
        values = rng.standard_normal(spec.shape).astype(np.float32)
        weights[spec.name] = (
            1 + 0.1 * values if "norm" in spec.name else values * np.float32(scale / np.sqrt(spec.shape[-1]) * 4)
        )
    return weights


def clean_environment(**extra: str) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOG_v": "3",
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **extra,
    }


def listen_to_ctrl_c() -> None:
    """For a child process (preexec_fn): a suite that runs in the background has inherited that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(command: list, cwd: Path | None = None, timeout: int = 300, **extra: str) -> subprocess.CompletedProcess:
    """Runs a command of the project; its output is in .stdout and .stderr."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd or ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=clean_environment(**extra),
    )


def run_python(
    script: Path | str,
    *arguments: object,
    cwd: Path | None = None,
    timeout: int = 300,
    given: bytes | str = "",
    is_warm: bool = True,
    **extra: str,
) -> subprocess.CompletedProcess:
    """Runs a script, with `given` as its input. Warm: in a fork of a process that has its imports (warm.py); not where
    variables are given that may count at the import.
    """
    command = [str(word) for word in (ROOT / script, *arguments)]
    if not is_warm or extra.keys() - {"PYTHONPATH"}:
        return run([sys.executable, *command], cwd, timeout, **extra)
    return WARM.run(command, cwd or ROOT, clean_environment(**extra), timeout, given)


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first of the workers that ask for it makes, while the others wait."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / f"all_workers/{name}"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder.with_suffix(".done")
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


def make_sums(tokenizer_dir: Path, output: Path, num_rows: int, split: str = "train", seed: int = 0) -> Path:
    """A MindRecord file of generated two-digit sums."""
    settings = (
        "--dataset_type",
        "arithmetic",
        "--num_rows",
        num_rows,
        "--split",
        split,
        "--seed",
        seed,
        "--output_path",
        output,
    )
    result = run_python("tools/rlhf_data.py", "--tokenizer_dir", tokenizer_dir, *settings)
    assert result.returncode == 0, result.stderr
    return output
