"""Hugging Face safetensors in and out: one file, or shards with an index; float32, float16 and bfloat16 in, float32 out.

safetensors' numpy reader has no bfloat16, so headers are read here and the bytes are widened in numpy; writing is the library's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mindrlhf_lite.models.model_config import ModelConfig
from mindrlhf_lite.models.parameters import ParameterSpec, parameter_specs

_NUMPY_TYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "BF16": np.uint16}
MAX_FILE_BYTES = 4 << 30
_READ_BYTES = 16 << 20
Read = Callable[[str, tuple[tuple[int, int], ...]], np.ndarray]  # values of a box of a tensor


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


class SafetensorsFile:
    """Boxes of the tensors of one file, read by position: unlike a memory map, what was read does not stay in this process's memory.

    Raises:
        ValueError: as `read_header`, or a dtype that is not supported.
    """

    def __init__(self, path: Path):
        self.path = path
        self.entries, self._start = read_header(path)
        for name, entry in self.entries.items():
            if entry["dtype"] not in _NUMPY_TYPES:
                raise ValueError(f"{path}: {name} has dtype {entry['dtype']}; supported: {', '.join(_NUMPY_TYPES)}")

    def read(self, name: str, box: Sequence[tuple[int, int]]) -> np.ndarray:
        """float32 values of a box ((start, stop) of every dimension)."""
        entry, (first, last) = self.entries[name], box[0]
        dtype, width = np.dtype(_NUMPY_TYPES[entry["dtype"]]), int(np.prod(entry["shape"][1:], dtype=np.int64))
        result = np.empty([stop - start for start, stop in box], np.float32)
        step = max(1, _READ_BYTES // max(1, width * dtype.itemsize))
        with self.path.open("rb", buffering=0) as file:
            for start in range(first, last, step):
                stop = min(start + step, last)
                file.seek(self._start + entry["data_offsets"][0] + start * width * dtype.itemsize)
                rows = np.empty((stop - start, *entry["shape"][1:]), dtype)
                if file.readinto(rows.reshape(-1).view(np.uint8).data) != rows.nbytes:
                    raise ValueError(f"{self.path}: cut short while {name} was read")
                values = rows[(slice(None), *(slice(*bounds) for bounds in box[1:]))]
                result[start - first : stop - first] = widen_bfloat16(values) if entry["dtype"] == "BF16" else values
        return result


class WeightReader:
    """Reads boxes of a Hugging Face folder's tensors, so that a rank loads its own part only.

    Raises:
        ValueError: missing, extra or misshaped tensors (all named at once), an unreadable file.
    """

    def __init__(self, model_dir: str | Path, config: ModelConfig):
        folder = Path(model_dir)
        wanted = tensor_shapes(folder, config)
        check_names_and_shapes(wanted, parameter_specs(config), str(folder))
        self._files = {name: file for file in map(SafetensorsFile, weight_files(folder)) for name in file.entries if name in wanted}

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def read(self, name: str, box: Sequence[tuple[int, int]]) -> np.ndarray:
        """float32 values of a box ((start, stop) of every dimension) of tensor `name`."""
        return self._files[name].read(name, box)

    def read_whole(self, name: str) -> np.ndarray:
        return self.read(name, [(0, extent) for extent in self._files[name].entries[name]["shape"]])


def load_weights(model_dir: str | Path, config: ModelConfig) -> dict[str, np.ndarray]:
    """All weights of a Hugging Face folder as float32 arrays by name; a tied lm_head.weight in the file is dropped. Raises as `WeightReader`."""
    reader = WeightReader(model_dir, config)
    return {name: reader.read_whole(name) for name in reader.names}


def tensor_shapes(folder: Path, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes by name from the files' headers, without a tied lm_head.weight."""
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {name: tuple(entry["shape"]) for path in weight_files(folder) for name, entry in read_header(path)[0].items() if name not in tied}


def _files(config: ModelConfig, max_bytes: int) -> list[list[str]]:
    """Tensor names of every file of a whole model, each of at most `max_bytes` (or one tensor)."""
    files: list[list[str]] = [[]]
    room = max_bytes
    for spec in parameter_specs(config):
        size = 4 * int(np.prod(spec.shape, dtype=np.int64))
        if files[-1] and size > room:
            files.append([])
            room = max_bytes
        files[-1].append(spec.name)
        room -= size
    return files


def write_hf_model(
    model_dir: str | Path,
    config: ModelConfig,
    read: Read,
    eos_token_id: int | Sequence[int] | None,
    pad_token_id: int | None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Writes config.json and model.safetensors (several files with an index above `max_file_bytes`), a file in memory at a time; atomic per file."""
    from safetensors.numpy import save_file

    folder, shapes = Path(model_dir), {spec.name: spec.shape for spec in parameter_specs(config)}
    folder.mkdir(parents=True, exist_ok=True)
    files = _files(config, max_file_bytes)
    names = ["model.safetensors"] if len(files) == 1 else [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    for name, tensors in zip(names, files, strict=True):
        values = {tensor: np.ascontiguousarray(read(tensor, tuple((0, extent) for extent in shapes[tensor])), np.float32) for tensor in tensors}
        save_file(values, folder / (name + ".tmp"), metadata={"format": "pt"})
        del values
        os.chmod(folder / (name + ".tmp"), 0o644)  # the library makes them readable by their owner only
        os.replace(folder / (name + ".tmp"), folder / name)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)  # of an older model in several files
    if len(files) > 1:
        weight_map = {tensor: name for name, tensors in zip(names, files, strict=True) for tensor in tensors}
        total = sum(4 * int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1))
    eos = eos_token_id if eos_token_id is None or isinstance(eos_token_id, int) else list(eos_token_id)
    (folder / "config.json").write_text(json.dumps(config.to_hf(eos, pad_token_id), indent=2) + "\n")


def save_hf_model(
    model_dir: str | Path,
    config: ModelConfig,
    weights: Mapping[str, np.ndarray],
    eos_token_id: int | list[int] | None,
    pad_token_id: int | None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """`write_hf_model` of weights that are in memory, checked against the config first."""
    check_names_and_shapes({name: value.shape for name, value in weights.items()}, parameter_specs(config), str(model_dir))
    write_hf_model(model_dir, config, lambda name, box: weights[name], eos_token_id, pad_token_id, max_file_bytes)
