"""Hugging Face safetensors in and out: one file, or shards with an index; float32, float16 and bfloat16 in, float32 out.

safetensors' numpy reader has no bfloat16, so headers are read here and the bytes are widened in numpy; writing is the library's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mindrlhf_lite.models.model_config import ModelConfig
from mindrlhf_lite.models.parameters import ParameterSpec, parameter_specs

_NUMPY_TYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "BF16": np.uint16}
_MAX_SHARD_BYTES = 4 << 30


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """uint16 bfloat16 bit patterns -> float32 of the same shape: bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def read_header(path: Path) -> tuple[dict[str, dict], int]:
    """(tensor name -> {dtype, shape, data_offsets}, offset of the data) of one safetensors file.

    Raises:
        ValueError: the file is cut short or is not safetensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{path}: not a safetensors file, or cut short ({size} bytes)")
        try:
            header = json.loads(file.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: broken safetensors header ({error})") from None
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end > size:
        raise ValueError(f"{path}: cut short: {size} bytes, {8 + length + end} expected")
    return header, 8 + length


def iterate_tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, float32 array) of one file, one tensor in memory at a time."""
    header, start = read_header(path)
    raw = np.memmap(path, np.uint8, "r")
    for name, entry in header.items():
        if entry["dtype"] not in _NUMPY_TYPES:
            raise ValueError(f"{path}: {name} has dtype {entry['dtype']}; supported: {', '.join(_NUMPY_TYPES)}")
        begin, end = entry["data_offsets"]
        values = np.frombuffer(raw[start + begin : start + end].tobytes(), _NUMPY_TYPES[entry["dtype"]]).reshape(entry["shape"])
        yield name, widen_bfloat16(values) if entry["dtype"] == "BF16" else values.astype(np.float32)


def weight_files(model_dir: Path) -> list[Path]:
    """The safetensors files of a model folder, the index's where there is one."""
    index = model_dir / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [name for name in names if not (model_dir / name).is_file()]
        if missing:
            raise ValueError(f"{model_dir}: the index names files that are not there: {', '.join(missing)}")
        return [model_dir / name for name in names]
    if (model_dir / "model.safetensors").is_file():
        return [model_dir / "model.safetensors"]
    raise ValueError(f"{model_dir}: neither model.safetensors nor model.safetensors.index.json there")


def check_names_and_shapes(found: Mapping[str, tuple[int, ...]], specs: list[ParameterSpec], source: str) -> None:
    """Raises ValueError that names every missing, extra and misshaped tensor at once."""
    expected = {spec.name: spec.shape for spec in specs}
    problems = [f"missing {name} {shape}" for name, shape in expected.items() if name not in found]
    problems += [f"unexpected {name} {tuple(shape)}" for name, shape in found.items() if name not in expected]
    problems += [
        f"{name} has shape {tuple(found[name])}, the config says {shape}" for name, shape in expected.items() if name in found and tuple(found[name]) != shape
    ]
    if problems:
        shown = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise ValueError(f"{source} does not fit its config:\n  {shown}")


def load_weights(model_dir: str | Path, config: ModelConfig) -> dict[str, np.ndarray]:
    """All weights of a Hugging Face folder as float32 arrays by name; a tied lm_head.weight in the file is dropped.

    Raises:
        ValueError: missing, extra or misshaped tensors (all named at once), an unreadable file.
    """
    folder = Path(model_dir)
    wanted = tensor_shapes(folder, config)
    check_names_and_shapes(wanted, parameter_specs(config), str(folder))
    return {name: values for path in weight_files(folder) for name, values in iterate_tensors(path) if name in wanted}


def tensor_shapes(folder: Path, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes by name from the files' headers, without a tied lm_head.weight."""
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {name: tuple(entry["shape"]) for path in weight_files(folder) for name, entry in read_header(path)[0].items() if name not in tied}


def save_hf_model(
    model_dir: str | Path,
    config: ModelConfig,
    weights: Mapping[str, np.ndarray],
    eos_token_id: int | list[int] | None,
    pad_token_id: int | None,
    max_shard_bytes: int = _MAX_SHARD_BYTES,
) -> None:
    """Writes config.json and model.safetensors (shards with an index above `max_shard_bytes`); atomic per file."""
    from safetensors.numpy import save_file

    folder = Path(model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    check_names_and_shapes({name: value.shape for name, value in weights.items()}, parameter_specs(config), str(folder))
    shards: list[dict[str, np.ndarray]] = [{}]
    room = max_shard_bytes
    for name, value in weights.items():
        if shards[-1] and value.nbytes > room:
            shards.append({})
            room = max_shard_bytes
        shards[-1][name] = np.ascontiguousarray(value, np.float32)
        room -= value.nbytes
    names = ["model.safetensors"] if len(shards) == 1 else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / (name + ".tmp"), metadata={"format": "pt"})
        os.chmod(folder / (name + ".tmp"), 0o644)  # the library makes them readable by their owner only
        os.replace(folder / (name + ".tmp"), folder / name)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)  # of an older, sharded model
    if len(shards) > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(value.nbytes for value in weights.values())
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1))
    (folder / "config.json").write_text(json.dumps(config.to_hf(eos_token_id, pad_token_id), indent=2) + "\n")
