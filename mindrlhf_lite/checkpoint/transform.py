"""Offline conversion of checkpoints between strategies and formats: the layouts of a reshard, with files as transport.

A source is a Hugging Face folder, a step_N folder of a run, a folder of rank files that this module wrote, or a
MindFormers file; a destination is a Hugging Face folder, a folder of rank files with its strategy beside them, or a
MindFormers file. Memory: a piece of 16 MiB of a whole tensor, one tensor of a rank file. Nothing is left of a
destination that could not be finished.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mindrlhf_lite.checkpoint.open_checkpoint import MODEL_FILE, STRATEGY_FILE, OpenCheckpoint
from mindrlhf_lite.checkpoint.store import rank_file
from mindrlhf_lite.checkpoint.strategy_file import strategy_to_json
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.durable import place
from mindrlhf_lite.files.text_file import write_text
from mindrlhf_lite.models.ckpt_format import write_ckpt
from mindrlhf_lite.models.gguf_model import write_tokenizer
from mindrlhf_lite.models.hf_weights import Read, whole_tensor, write_hf_model
from mindrlhf_lite.models.mindformers import mindformers_name, mindformers_problem
from mindrlhf_lite.models.peft_folder import ADAPTER
from mindrlhf_lite.models.safetensors_format import write_safetensors
from mindrlhf_lite.models.tensor_files import OnTensor, TensorToWrite
from mindrlhf_lite.parallel.layout import Buffer, Strategy, buffers_of_rank, fill_buffers
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs

MINDFORMERS_SUFFIXES = (".ckpt", ".safetensors")


def number_of_tensors(config: ModelConfig, strategy: Strategy | None) -> int:
    """Tensors that `transform` writes: what its progress adds up to.

    Raises:
        ValueError: the model cannot be laid out so.
    """
    if strategy is None:
        return len(parameter_specs(config))
    if problems := strategy.problems(config):
        raise UserError(f"{strategy.dims.describe()}: " + "; ".join(problems))
    return sum(len(buffers_of_rank(config, strategy, rank)) for rank in _written_ranks(strategy))


def check_is_new(destination: Path) -> None:
    """Raises ValueError if something is there already, but for an empty folder."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(f"{destination}: exists already and is not empty; give a new name")


def transform(
    source: OpenCheckpoint,
    destination: str | Path,
    strategy: Strategy | None,
    progress: OnTensor = lambda count: None,
    dtype: str | None = None,
) -> None:
    """Writes `source` to `destination` under `strategy`; None: as a whole model in Hugging Face format. Only weights
    are written: the optimizer's state of a run's checkpoint stays behind.

    Args:
        dtype: F32, F16 or BF16; None: what the source has.

    Raises:
        ValueError: the model cannot be laid out so, the destination holds something already, or a number does not fit
            the dtype.
    """
    folder = Path(destination)
    check_is_new(folder)
    number_of_tensors(source.config, strategy)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    scratch.chmod(0o755)
    try:
        if strategy is None:
            ends = source.end_token_ids, source.pad_token_id
            write_hf_model(
                scratch,
                source.config,
                source.readers["weight/"],
                *ends,
                dtype=source.dtype_to_write(dtype),
                progress=progress,
            )
            if source.write_adapters:
                source.write_adapters(scratch / ADAPTER)
        else:
            _write_shards(source, scratch, replace(strategy, splits_data=False), source.dtype_to_write(dtype), progress)
        if source.gguf:
            write_tokenizer(source.gguf, scratch)
        place(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _written_ranks(strategy: Strategy) -> list[int]:
    return [
        rank for rank in range(strategy.dims.size) if strategy.dims.coordinates(rank).data == 0
    ]  # replicas are not written twice


def _write_shards(
    source: OpenCheckpoint, folder: Path, strategy: Strategy, dtype: Callable[[str], str], progress: OnTensor
) -> None:
    for rank in _written_ranks(strategy):
        rows = _RowsOfBuffers(source.readers["weight/"])
        tensors = [
            TensorToWrite(
                f"weight/{buffer.name}", dtype(buffer.parts[0].tensor), tuple(buffer.shape), partial(rows.rows, buffer)
            )
            for buffer in buffers_of_rank(source.config, strategy, rank)
        ]
        write_safetensors(folder / rank_file(rank), tensors, progress=progress)
    write_text(folder / STRATEGY_FILE, json.dumps(strategy_to_json(strategy), indent=1) + "\n")
    write_text(
        folder / MODEL_FILE, json.dumps(source.config.to_hf(source.end_token_ids, source.pad_token_id), indent=1) + "\n"
    )


class _RowsOfBuffers:
    """Rows of a rank's buffers, of which only the one that is being written is in memory."""

    def __init__(self, read: Read):
        self.read, self.arrays = read, dict[str, np.ndarray]()

    def rows(self, buffer: Buffer, start: int, stop: int) -> np.ndarray:
        if buffer.name not in self.arrays:
            self.arrays = {}
            self.arrays = fill_buffers([buffer], self.read)
        return self.arrays[buffer.name][start:stop]


def write_mindformers(
    source: OpenCheckpoint, destination: str | Path, progress: OnTensor = lambda count: None, dtype: str | None = None
) -> None:
    """One .ckpt or .safetensors file with the names of MindFormers' LlamaForCausalLM.

    Raises:
        ValueError: MindFormers has no such model, another suffix, the file exists, or a number does not fit the dtype.
    """
    path = Path(destination)
    if path.suffix not in MINDFORMERS_SUFFIXES:
        raise UserError(f"{path}: a MindFormers file ends in {' or '.join(MINDFORMERS_SUFFIXES)}")
    if problem := mindformers_problem(source.config):
        raise UserError(f"{path}: {problem}")
    check_is_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    read, dtype_of = source.readers["weight/"], source.dtype_to_write(dtype)
    tensors = [
        whole_tensor(spec.name, mindformers_name(spec.name), spec.shape, read, dtype_of(spec.name))
        for spec in parameter_specs(source.config)
    ]
    if path.suffix == ".ckpt":
        write_ckpt(path, tensors, progress)
    else:
        write_safetensors(path, tensors, "ms", progress)
