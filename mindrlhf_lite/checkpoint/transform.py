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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.checkpoint.sharded import ShardedReader
from mindrlhf_lite.checkpoint.store import rank_file
from mindrlhf_lite.checkpoint.strategy_file import strategy_from_json, strategy_to_json
from mindrlhf_lite.config.model_file import read_model_file
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.durable import place
from mindrlhf_lite.files.json_file import read_json
from mindrlhf_lite.files.text_file import write_text
from mindrlhf_lite.models.ckpt_format import write_ckpt
from mindrlhf_lite.models.gguf_model import GgufModel, write_tokenizer
from mindrlhf_lite.models.hf_weights import WeightReader, check_names_and_shapes, whole_tensor, write_hf_model
from mindrlhf_lite.models.mindformers import is_training_state, mindformers_name, mindformers_problem
from mindrlhf_lite.models.open_tensors import open_tensor_file
from mindrlhf_lite.models.safetensors_format import write_safetensors
from mindrlhf_lite.models.tensor_files import OnTensor, TensorFile, TensorToWrite
from mindrlhf_lite.parallel.layout import Box, Buffer, Strategy, buffers_of_rank, fill_buffers, parse_strategy
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs

MINDFORMERS_SUFFIXES = (".ckpt", ".safetensors")
STRATEGY_FILE, MODEL_FILE = "strategy.json", "config.json"
Read = Callable[[str, Box], np.ndarray]
_ROWS_COMPARED = 4096


@dataclass(frozen=True)
class OpenCheckpoint:
    """Readers of everything that a checkpoint holds, by the prefix that its keys have: "weight/", "optimizer/adam_m."
    ...
    """

    config: ModelConfig
    strategy: Strategy | None  # None: a whole model
    readers: dict[str, Read]
    dtype: Callable[[str], str]  # what a weight is stored as
    end_token_ids: Any = None
    pad_token_id: int | None = None
    left_out: tuple[str, ...] = ()  # tensors that are no weights: a training state
    gguf: GgufModel | None = None  # where it came from, with its tokenizer

    def dtype_to_write(self, wanted: str | None) -> Callable[[str], str]:
        """`wanted` for every tensor, or what each is stored as (float64, which no one serves, as float32)."""
        return lambda name: wanted or ("F32" if self.dtype(name) == "F64" else self.dtype(name))


def read_strategy(text: str, source: str) -> Strategy:
    """A strategy from a JSON file, or from text such as dp=1,tp=2,pp=2."""
    return strategy_from_json(read_json(Path(text)), text) if text.endswith(".json") else parse_strategy(text, source)


def open_checkpoint(path: str | Path, strategy: Strategy | None = None) -> OpenCheckpoint:
    """Finds out what `path` is.

    Args:
        strategy: that it was saved under; by default what it says itself.

    Raises:
        ValueError: it is none of the kinds that are understood.
    """
    folder = Path(path)
    if (folder / "state.json").is_file():
        state = read_json(folder / "state.json")
        if strange := [key for key in ("model", "strategy") if not isinstance(state.get(key), dict)]:
            raise UserError(f"{folder}/state.json: {strange[0]}={state.get(strange[0])!r}: an object is needed")
        config = ModelConfig.from_hf(state["model"], f"{folder}/state.json")
        saved = strategy or strategy_from_json(state["strategy"], f"{folder}/state.json")
        _check_fits(saved, config, folder)
        weights = ShardedReader(folder, config, replace(saved, splits_data=False), "weight/")
        readers: dict[str, Read] = {"weight/": weights.read}
        for moment in ("adam_m", "adam_v"):
            readers[f"optimizer/{moment}."] = ShardedReader(folder, config, saved, f"optimizer/{moment}.").read
        return OpenCheckpoint(
            config,
            saved,
            readers,
            weights.dtype,
            state["model"].get("eos_token_id"),
            state["model"].get("pad_token_id"),
        )
    if not (folder / MODEL_FILE).is_file():
        raise UserError(
            f"{folder}: neither state.json (a run's step_N folder) nor config.json (a Hugging Face folder, or "
            "one of this tool's) there"
        )
    values = read_json(folder / MODEL_FILE)
    config = ModelConfig.from_hf(values, f"{folder}/{MODEL_FILE}")
    ends = values.get("eos_token_id"), values.get("pad_token_id")
    if (folder / STRATEGY_FILE).is_file() or list(folder.glob("rank_*.safetensors")):
        written = strategy or strategy_from_json(read_json(folder / STRATEGY_FILE), f"{folder}/{STRATEGY_FILE}")
        _check_fits(written, config, folder)
        shards = ShardedReader(folder, config, written, "weight/")
        return OpenCheckpoint(config, written, {"weight/": shards.read}, shards.dtype, *ends)
    whole = WeightReader(folder, config)
    return OpenCheckpoint(config, None, {"weight/": whole.read}, whole.dtype, *ends)


def _check_fits(strategy: Strategy, config: ModelConfig, folder: Path) -> None:
    """Raises ValueError where the model cannot have been saved so."""
    if problems := strategy.problems(config):
        raise UserError(f"{folder}: its strategy, {strategy.dims.describe()}, does not fit: {'; '.join(problems)}")


def open_mindformers(path: str | Path, config_path: str | Path) -> OpenCheckpoint:
    """A .ckpt or .safetensors file of MindFormers' LlamaForCausalLM.

    Args:
        config_path: where the model's shape stands: a MindFormers YAML, a YAML of model_configs/, or a Hugging Face
            folder.

    Raises:
        ValueError: missing, extra or misshaped tensors (all named at once), an unreadable file, no or another model's
            config.
    """
    model, file = read_model_file(str(config_path)), open_tensor_file(Path(path))
    specs = parameter_specs(model.shape)
    left_out = tuple(name for name in file.entries if is_training_state(name))
    found = {name: entry.shape for name, entry in file.entries.items() if name not in left_out}
    expected = [replace(spec, name=mindformers_name(spec.name)) for spec in specs]
    tied_head = (
        found.pop("lm_head.weight", None) if model.shape.tie_word_embeddings else None
    )  # MindFormers writes it a second time
    check_names_and_shapes(found, expected, f"{path} (shape from {config_path})")
    for name in found:
        if (dtype := file.entries[name].dtype) not in ("F32", "F16", "BF16", "F64"):
            raise UserError(f"{path}: {name} has dtype {dtype}; supported: Float32, Float16, BFloat16, Float64")
    if tied_head is not None:
        _check_tied_head(file, tied_head, mindformers_name("model.embed_tokens.weight"))

    def read(name: str, box: Box) -> np.ndarray:
        return file.read(mindformers_name(name), box)

    def dtype_of(name: str) -> str:
        return file.entries[mindformers_name(name)].dtype

    return OpenCheckpoint(
        model.shape, None, {"weight/": read}, dtype_of, model.end_token_ids, model.pad_token_id, left_out
    )


def open_gguf(path: str | Path) -> OpenCheckpoint:
    """A GGUF file. Raises ValueError as `GgufModel`."""
    model = GgufModel(path)
    ends = model.end_token_ids
    one_or_more = ends[0] if len(ends) == 1 else ends or None
    return OpenCheckpoint(
        model.config, None, {"weight/": model.read}, model.dtype, one_or_more, model.pad_token_id, gguf=model
    )


def _check_tied_head(file: TensorFile, shape: tuple[int, ...], embedding: str) -> None:
    """Raises ValueError if a head is not the embedding that it is tied to, by its shape or by a number."""

    def rows_are_equal(start: int) -> bool:
        box = ((start, min(start + _ROWS_COMPARED, shape[0])), (0, shape[1]))
        return np.array_equal(file.read("lm_head.weight", box), file.read(embedding, box), equal_nan=True)

    if shape != file.entries[embedding].shape or not all(map(rows_are_equal, range(0, shape[0], _ROWS_COMPARED))):
        raise UserError(
            f"{file.path}: lm_head.weight is not {embedding}, though the config says tie_word_embeddings=true"
        )


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
