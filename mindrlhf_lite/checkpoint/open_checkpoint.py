"""What a conversion reads from, whatever it is: a Hugging Face folder, a step_N folder of a run, a folder of rank files
that `transform` wrote, a MindFormers file, or a GGUF file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.checkpoint.sharded import ShardedReader
from mindrlhf_lite.checkpoint.strategy_file import strategy_from_json
from mindrlhf_lite.config.model_file import read_model_file
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.json_file import read_json
from mindrlhf_lite.models.fingerprint import model_fingerprint
from mindrlhf_lite.models.gguf_model import GgufModel
from mindrlhf_lite.models.hf_weights import Read, WeightReader, check_names_and_shapes
from mindrlhf_lite.models.mindformers import is_training_state, mindformers_name
from mindrlhf_lite.models.open_tensors import open_tensor_file
from mindrlhf_lite.models.peft_folder import MergedReader, write_peft_folder
from mindrlhf_lite.models.tensor_files import TensorFile
from mindrlhf_lite.parallel.layout import Box, Strategy, parse_strategy
from mindrlhf_lite.shapes.adapters import Adapters
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import SCORE, parameter_specs

STRATEGY_FILE, MODEL_FILE = "strategy.json", "config.json"
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
    write_adapters: Callable[[Path], None] | None = None  # in peft's format: of a checkpoint that has them

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
        if state.get("adapters"):
            return _merged(folder, state, config, replace(saved, splits_data=False))
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


def _merged(folder: Path, state: dict[str, Any], base_shape: ModelConfig, strategy: Strategy) -> OpenCheckpoint:
    """A checkpoint of adapters: the weights of the model that they were trained beside, with them merged in."""
    given = {**state["adapters"], "targets": tuple(state["adapters"]["targets"])}
    shape, base = (
        replace(base_shape, adapters=Adapters(**given)),
        state.get("base") or state["config"]["actor_config"]["load"],
    )
    if not Path(base).is_dir():
        raise UserError(f"{folder}: adapters beside the model in {base}, which is not there")
    fingerprint = state["models"]["actor_config.load"]
    if model_fingerprint(base) != fingerprint:
        raise UserError(f"{folder}: adapters beside the model that was in {base}; another is there now")
    adapters = ShardedReader(folder, shape.moved, strategy, "weight/")
    weights = WeightReader(base, ModelConfig.from_dir(base))  # of a score head the checkpoint's own counts
    ends = state["model"].get("eos_token_id"), state["model"].get("pad_token_id")
    readers: dict[str, Read] = {"weight/": MergedReader(weights.read, adapters.read, shape).read}
    return OpenCheckpoint(
        base_shape,
        None,
        readers,
        lambda name: "F32" if name == SCORE else weights.dtype(name),
        *ends,
        write_adapters=lambda place: write_peft_folder(place, shape, adapters.read, base, fingerprint),
    )


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
