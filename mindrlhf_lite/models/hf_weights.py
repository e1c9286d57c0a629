"""Hugging Face folders in and out: config.json with one safetensors file, or several with an index."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.json_file import read_json
from mindrlhf_lite.files.text_file import write_text
from mindrlhf_lite.models.safetensors_format import read_header, write_safetensors
from mindrlhf_lite.models.tensor_files import OnTensor, TensorFile, TensorToWrite
from mindrlhf_lite.parallel.layout import Box, whole_box
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import ParameterSpec, parameter_specs

MAX_FILE_BYTES = 4 << 30
_TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
Read = Callable[[str, Box], np.ndarray]  # values of a box of a tensor


_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
# tables that older versions of transformers saved beside the weights; they are computed from the config
_COMPUTED = re.compile(
    r"(^|\.)(rotary_emb\.((original_)?inv_freq|(cos|sin)_cached)|(self_attn|attn|attention)\.(masked_)?bias|masked_bias)$"
)


def weight_files(model_dir: Path) -> list[Path]:
    """The safetensors files of a model folder: model.safetensors, or those that an index names. Where there are both,
    the index is of an older model in several files: transformers and vLLM take model.safetensors too.
    """
    single, index = model_dir / _SINGLE, model_dir / _INDEX
    if single.is_file():
        return [single]
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise UserError(f"{index}: no weight_map of tensor names to files in it")
        names = sorted(set(names.values()))
        if strange := [name for name in names if name in ("", ".", "..") or "/" in name or "\0" in name]:
            raise UserError(f"{index}: {strange[0]!r} is no file of its folder; only those are read")
        missing = [name for name in names if not (model_dir / name).is_file()]
        if missing:
            raise UserError(f"{model_dir}: the index names files that are not there: {', '.join(missing)}")
        return [model_dir / name for name in names]
    raise UserError(f"{model_dir}: neither {_SINGLE} nor {_INDEX} there")


def check_names_and_shapes(found: Mapping[str, tuple[int, ...]], specs: list[ParameterSpec], source: str) -> None:
    """Raises ValueError that names every missing, extra and misshaped tensor at once."""
    expected = {spec.name: spec.shape for spec in specs}
    problems = [f"missing {name} {shape}" for name, shape in expected.items() if name not in found]
    problems += [f"unexpected {name} {tuple(shape)}" for name, shape in found.items() if name not in expected]
    problems += [
        f"{name} has shape {tuple(found[name])}, the config says {shape}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != shape
    ]
    if problems:
        raise UserError(f"{source} does not fit its config:\n  " + "\n  ".join(_by_layers(problems)))


def _by_layers(problems: list[str]) -> list[str]:
    """Lines that differ in the layer only as one, in order of first appearance: "missing
    model.layers.{2-27}.mlp.up_proj.weight (18944, 3584)".
    """
    layers: dict[tuple[str, str], list[int]] = {}
    for problem in problems:
        start, _, rest = problem.partition(".layers.")
        number, _, end = rest.partition(".")
        if number.isdigit():
            layers.setdefault((f"{start}.layers.", f".{end}"), []).append(int(number))
        else:
            layers[problem, ""] = []
    lines = []
    for (start, end), numbers in layers.items():
        runs: list[list[int]] = []
        for layer in sorted(numbers):
            if runs and layer == runs[-1][1] + 1:
                runs[-1][1] = layer
            else:
                runs.append([layer, layer])
        text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
        lines.append(f"{start}{text if len(numbers) == 1 else '{' + text + '}'}{end}" if end else start)
    return lines


class WeightReader:
    """Reads boxes of a Hugging Face folder's tensors, so that a rank loads its own part only.

    Raises:
        ValueError: missing, extra or misshaped tensors (all named at once), an unreadable file.
    """

    def __init__(self, model_dir: str | Path, config: ModelConfig):
        folder = Path(model_dir)
        wanted = tensor_shapes(folder, config)
        check_names_and_shapes(wanted, parameter_specs(config), str(folder))
        files = [TensorFile(path, read_header(path)) for path in weight_files(folder)]
        self._files = {name: file for file in files for name in file.entries if name in wanted}

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def read(self, name: str, box: Box) -> np.ndarray:
        """float32 values of a box ((start, stop) of every dimension) of tensor `name`."""
        return self._files[name].read(name, box)

    def dtype(self, name: str) -> str:
        """F32, F16, BF16, ...: what it is stored as."""
        return self._files[name].entries[name].dtype

    def read_whole(self, name: str) -> np.ndarray:
        return self.read(name, whole_box(self._files[name].entries[name].shape))


def load_weights(model_dir: str | Path, config: ModelConfig) -> dict[str, np.ndarray]:
    """All weights of a Hugging Face folder as float32 arrays by name; a tied lm_head.weight in the file is dropped.
    Raises as `WeightReader`.
    """
    reader = WeightReader(model_dir, config)
    return {name: reader.read_whole(name) for name in reader.names}


def tensor_shapes(folder: Path, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes by name from the files' headers, without a tied lm_head.weight, and without tables that are no weights."""
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {
        name: entry.shape
        for path in weight_files(folder)
        for name, entry in read_header(path).items()
        if name not in tied and not _COMPUTED.search(name)
    }


def all_float32(name: str) -> str:
    return "F32"


def _files(config: ModelConfig, dtype: Callable[[str], str], max_bytes: int) -> list[list[str]]:
    """Tensor names of every file of a whole model, each of at most `max_bytes` (or one tensor)."""
    files: list[list[str]] = [[]]
    room = max_bytes
    for spec in parameter_specs(config):
        size = _ITEM_BYTES[dtype(spec.name)] * int(np.prod(spec.shape, dtype=np.int64))
        if files[-1] and size > room:
            files.append([])
            room = max_bytes
        files[-1].append(spec.name)
        room -= size
    return files


def whole_tensor(name: str, stored_name: str, shape: tuple[int, ...], read: Read, dtype: str) -> TensorToWrite:
    """A tensor that is written as `stored_name` while its rows are read as `name`."""
    rest = whole_box(shape[1:])
    return TensorToWrite(stored_name, dtype, shape, lambda start, stop: read(name, ((start, stop), *rest)))


def write_hf_model(
    model_dir: str | Path,
    config: ModelConfig,
    read: Read,
    eos_token_id: int | Sequence[int] | None,
    pad_token_id: int | None,
    max_file_bytes: int = MAX_FILE_BYTES,
    dtype: Callable[[str], str] = all_float32,
    progress: OnTensor = lambda count: None,
) -> None:
    """Writes config.json and model.safetensors (several files with an index above `max_file_bytes`), a piece in memory
    at a time; atomic per file.

    Args:
        dtype: what a tensor is stored as, by name: F32, F16 or BF16.
        progress: called with 1 after every tensor.
    """
    folder, shapes = Path(model_dir), {spec.name: spec.shape for spec in parameter_specs(config)}
    folder.mkdir(parents=True, exist_ok=True)
    files = _files(config, dtype, max_file_bytes)
    names = (
        [_SINGLE]
        if len(files) == 1
        else [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    )
    for name, tensors in zip(names, files, strict=True):
        write_safetensors(
            folder / name,
            [whole_tensor(tensor, tensor, shapes[tensor], read, dtype(tensor)) for tensor in tensors],
            progress=progress,
        )
    (folder / _INDEX).unlink(missing_ok=True)  # of an older model in several files
    if len(files) > 1:
        (folder / _SINGLE).unlink(missing_ok=True)  # of an older model in one file, which would win
        weight_map = {tensor: name for name, tensors in zip(names, files, strict=True) for tensor in tensors}
        total = sum(_ITEM_BYTES[dtype(name)] * int(np.prod(shape, dtype=np.int64)) for name, shape in shapes.items())
        write_text(
            folder / _INDEX,
            json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1),
        )
    eos = eos_token_id if eos_token_id is None or isinstance(eos_token_id, int) else list(eos_token_id)
    values = {**config.to_hf(eos, pad_token_id), "torch_dtype": _TORCH_NAMES[dtype("model.embed_tokens.weight")]}
    write_text(folder / "config.json", json.dumps(values, indent=2) + "\n")


def save_hf_model(
    model_dir: str | Path,
    config: ModelConfig,
    weights: Mapping[str, np.ndarray],
    eos_token_id: int | list[int] | None,
    pad_token_id: int | None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """`write_hf_model` of weights that are in memory, checked against the config first."""
    check_names_and_shapes(
        {name: value.shape for name, value in weights.items()}, parameter_specs(config), str(model_dir)
    )
    write_hf_model(
        model_dir,
        config,
        lambda name, box: weights[name][box[0][0] : box[0][1]],
        eos_token_id,
        pad_token_id,
        max_file_bytes,
    )
