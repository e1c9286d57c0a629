"""Offline conversion of checkpoints between strategies: the layouts of a reshard, with files as transport.

A source is a Hugging Face folder, a step_N folder of a run, or a folder of rank files that this module wrote; a destination is a
Hugging Face folder ("full") or a folder of rank files with its strategy beside them. Memory: one destination file, whose tensors
are filled a box at a time from memory-mapped files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.checkpoint.sharded import ShardedReader
from mindrlhf_lite.checkpoint.store import rank_file
from mindrlhf_lite.checkpoint.strategies import strategy_from_json, strategy_to_json
from mindrlhf_lite.models.hf_weights import WeightReader, write_hf_model
from mindrlhf_lite.models.model_config import ModelConfig
from mindrlhf_lite.parallel.layout import Box, Strategy, buffers_of_rank, fill_buffers, parse_strategy

STRATEGY_FILE, MODEL_FILE = "strategy.json", "config.json"
Read = Callable[[str, Box], np.ndarray]


@dataclass(frozen=True)
class OpenCheckpoint:
    """Readers of everything that a checkpoint holds, by the prefix that its keys have: "weight/", "optimizer/adam_m." ..."""

    config: ModelConfig
    strategy: Strategy | None  # None: a whole model
    readers: dict[str, Read]
    end_token_ids: Any = None
    pad_token_id: int | None = None


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a JSON object is needed")
    return values


def read_strategy(text: str, source: str) -> Strategy:
    """A strategy from a JSON file, or from text such as dp=1,tp=2,pp=2."""
    return strategy_from_json(_json(Path(text)), text) if text.endswith(".json") else parse_strategy(text, source)


def open_checkpoint(path: str | Path, strategy: Strategy | None = None) -> OpenCheckpoint:
    """Finds out what `path` is.

    Args:
        strategy: that it was saved under; by default what it says itself.

    Raises:
        ValueError: it is none of the kinds that are understood.
    """
    folder = Path(path)
    if (folder / "state.json").is_file():
        state = _json(folder / "state.json")
        config = ModelConfig.from_hf(state["model"], f"{folder}/state.json")
        saved = strategy or strategy_from_json(state["strategy"], f"{folder}/state.json")
        readers: dict[str, Read] = {"weight/": ShardedReader(folder, config, replace(saved, splits_data=False), "weight/").read}
        for moment in ("adam_m", "adam_v"):
            readers[f"optimizer/{moment}."] = ShardedReader(folder, config, saved, f"optimizer/{moment}.").read
        return OpenCheckpoint(config, saved, readers)
    if not (folder / MODEL_FILE).is_file():
        raise ValueError(f"{folder}: neither state.json (a run's step_N folder) nor config.json (a Hugging Face folder, or one of this tool's) there")
    values = _json(folder / MODEL_FILE)
    config = ModelConfig.from_hf(values, f"{folder}/{MODEL_FILE}")
    if (folder / STRATEGY_FILE).is_file() or list(folder.glob("rank_*.safetensors")):
        written = strategy or strategy_from_json(_json(folder / STRATEGY_FILE), f"{folder}/{STRATEGY_FILE}")
        read: Read = ShardedReader(folder, config, written, "weight/").read
    else:
        written, read = None, WeightReader(folder, config).read
    return OpenCheckpoint(config, written, {"weight/": read}, values.get("eos_token_id"), values.get("pad_token_id"))


def transform(source: OpenCheckpoint, destination: str | Path, strategy: Strategy | None, progress: Callable[[int], None] = lambda done: None) -> None:
    """Writes `source` to `destination` under `strategy`; None: as a whole model in Hugging Face format. Only weights go to a whole model
    and to rank files that are not a run's checkpoint.

    Raises:
        ValueError: the model cannot be laid out so, or the destination holds something already.
    """
    folder = Path(destination)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: not empty; give a new folder")
    if strategy is None:
        write_hf_model(folder, source.config, source.readers["weight/"], source.end_token_ids, source.pad_token_id)
        progress(1)
        return
    if problems := strategy.problems(source.config):
        raise ValueError(f"{strategy.dims.describe()}: " + "; ".join(problems))
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(strategy.dims.size):
        if strategy.dims.coordinates(rank).data == 0:
            _write_rank(source, folder, replace(strategy, splits_data=False), rank)
            progress(1)
    (folder / STRATEGY_FILE).write_text(json.dumps(strategy_to_json(replace(strategy, splits_data=False)), indent=1) + "\n")
    (folder / MODEL_FILE).write_text(json.dumps(source.config.to_hf(source.end_token_ids, source.pad_token_id), indent=1) + "\n")


def _write_rank(source: OpenCheckpoint, folder: Path, strategy: Strategy, rank: int) -> None:
    from safetensors.numpy import save_file

    arrays = fill_buffers(buffers_of_rank(source.config, strategy, rank), source.readers["weight/"])
    path = folder / rank_file(rank)
    save_file({f"weight/{name}": array for name, array in arrays.items()}, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)
