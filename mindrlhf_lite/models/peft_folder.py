"""Folders of adapters in peft's format, in and out: adapter_config.json with adapter_model.safetensors; base.json says
which model they belong to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.errors import UserError, short_repr
from mindrlhf_lite.files.json_file import read_json
from mindrlhf_lite.files.text_file import write_text
from mindrlhf_lite.models.fingerprint import model_fingerprint
from mindrlhf_lite.models.hf_weights import Read, WeightReader, check_names_and_shapes, whole_tensor
from mindrlhf_lite.models.safetensors_format import read_header, write_safetensors
from mindrlhf_lite.models.tensor_files import TensorFile
from mindrlhf_lite.parallel.layout import Box
from mindrlhf_lite.shapes.adapters import DOWN, UP, Adapters, adapter_name
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import SCORE, parameter_specs

CONFIG_FILE, WEIGHTS_FILE, BASE_FILE = "adapter_config.json", "adapter_model.safetensors", "base.json"
ADAPTER = "adapter"  # folder of the adapters, in that of the model which has them merged
_PREFIX = "base_model.model."
# settings that would change what the numbers mean, and the only value that each may have here
_ONLY: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "fan_in_fan_out": False,
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
    "trainable_token_indices": None,
    "alora_invocation_tokens": None,
    "layer_replication": None,
    "use_qalora": False,
}
_HEADS = {"score", "classifier"}  # names that peft gives to heads of ForSequenceClassification
# what leaves the base as it is; others (PiSSA, OLoRA, LoftQ ...) change it
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


class PeftFolder:
    """Args: shape: of the base.

    Raises:
        UserError: a setting that is not supported, tensors that do not fit the base, a file that is not there.
    """

    def __init__(self, folder: str | Path, shape: ModelConfig):
        self.folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (self.folder / name).is_file():
                raise UserError(f"{folder}: no {name} there; a folder of adapters that peft saved is needed")
        values = read_json(self.folder / CONFIG_FILE)
        for key, only in _ONLY.items():
            given = values.get(key) or only
            if key == "modules_to_save" and shape.has_score and given is not None:
                given = None if set(given) <= _HEADS else given
            if given != only:
                raise UserError(
                    f"{folder}/{CONFIG_FILE}: {key}={short_repr(values[key])} is not supported; {only!r} is"
                )
        if (start := values.get("init_lora_weights")) not in _STARTS:
            raise UserError(f"{folder}/{CONFIG_FILE}: init_lora_weights={short_repr(start)} changes the base as well")
        file = self.folder / WEIGHTS_FILE
        self._file = TensorFile(file, read_header(file))
        self.shape = replace(shape, adapters=self._adapters(values))
        self._keys = {name.removeprefix(_PREFIX): name for name in self._file.entries}
        found = {name: self._file.entries[key].shape for name, key in self._keys.items()}
        check_names_and_shapes(found, parameter_specs(self.shape.moved), str(folder))

    def _adapters(self, values: Mapping[str, Any]) -> Adapters:
        rank, alpha, path = values.get("r"), values.get("lora_alpha"), f"{self.folder}/{CONFIG_FILE}"
        for key, number in (("r", rank), ("lora_alpha", alpha)):
            if not isinstance(number, int | float) or isinstance(number, bool) or not 0 < number < 1 << 30:
                raise UserError(f"{path}: {key}={short_repr(number)}: a positive number is needed")
        targets = {name.split(".")[-3] for name in self._file.entries if f".{DOWN}." in name}
        if not targets:
            raise UserError(f"{self._file.path}: no adapters in it")
        return Adapters(int(rank), float(alpha), tuple(sorted(targets)), bool(values.get("use_rslora")))  # type: ignore[arg-type]

    def read(self, name: str, box: Box) -> np.ndarray:
        """float32 values of a box of a parameter of `shape`."""
        return self._file.read(self._keys[name], box)

    def check_base(self, model_folder: str | Path) -> None:
        """Raises UserError where the adapters say that they belong to another model."""
        if not (self.folder / BASE_FILE).is_file():
            return  # peft's own folders do not say
        saved = read_json(self.folder / BASE_FILE)
        if saved.get("fingerprint") != model_fingerprint(model_folder):
            raise UserError(
                f"{self.folder}: these adapters belong to another model than {model_folder}: they were trained beside "
                f"{short_repr(saved.get('load'))}"
            )


class MergedReader:
    """Boxes of a model's weights with adapters merged into them: W + scale * B A, in float32."""

    def __init__(self, base: Read, adapters: Read, shape: ModelConfig):
        assert shape.adapters is not None
        self._base, self._adapters, self._scale = base, adapters, shape.adapters.scale
        self._rank = shape.adapters.rank
        adapters_of = {spec.name for spec in parameter_specs(shape.moved)}
        names = [spec.name for spec in parameter_specs(shape.base)]
        self.names = [name for name in names if adapter_name(name, UP) in adapters_of]  # of those with adapters

    def read(self, name: str, box: Box) -> np.ndarray:
        if name == SCORE:  # trained whole
            return self._adapters(name, box)
        values, down, up = self._base(name, box), adapter_name(name, DOWN), adapter_name(name, UP)
        if name not in self.names:
            return values
        rank = (0, self._rank)
        return merged(values, self._adapters(down, (rank, box[1])), self._adapters(up, (box[0], rank)), self._scale)


def beside(model_folder: str | Path, shape: ModelConfig, adapter: str | Path) -> tuple[PeftFolder, MergedReader]:
    """Adapters of a folder, and the model's weights with them merged in. Raises UserError where they do not belong
    together.
    """
    adapters = PeftFolder(adapter, shape)
    adapters.check_base(model_folder)
    return adapters, MergedReader(WeightReader(model_folder, shape).read, adapters.read, adapters.shape)


def merged(weight: np.ndarray, down: np.ndarray, up: np.ndarray, scale: float) -> np.ndarray:
    """float32 [out, in] of weight, A [rank, in] and B [out, rank]."""
    return weight + np.float32(scale) * (up @ down)


def write_peft_folder(folder: Path, shape: ModelConfig, read: Read, base: str, fingerprint: str) -> None:
    """Args: shape: with adapters; read: of their values; base: folder of the model that they belong to."""
    adapters = shape.adapters
    assert adapters is not None
    folder.mkdir(parents=True, exist_ok=True)
    specs = parameter_specs(shape.moved)
    tensors = [whole_tensor(spec.name, _PREFIX + spec.name, spec.shape, read, "F32") for spec in specs]
    write_safetensors(folder / WEIGHTS_FILE, tensors)
    values = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if shape.has_score else "CAUSAL_LM",
        **({"modules_to_save": ["score"]} if shape.has_score else {}),
        "base_model_name_or_path": base,
        "r": adapters.rank,
        "lora_alpha": adapters.alpha,
        "target_modules": list(adapters.targets),
        "use_rslora": adapters.is_rank_stabilised,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    write_text(folder / CONFIG_FILE, json.dumps(values, indent=2) + "\n")
    write_text(folder / BASE_FILE, json.dumps({"load": base, "fingerprint": fingerprint}, indent=2) + "\n")


class InitialAdapters:
    """New adapters: a function of (shape, seed, kind), whatever layout reads them. B is zero, so that the model begins
    as its base.

    Args: kind: "default": A from U(-1, 1) / sqrt(in), peft's; "gaussian": from N(0, 1) / rank.
    """

    def __init__(self, shape: ModelConfig, seed: int, kind: str):
        assert shape.adapters is not None
        self._seed, self._kind, self._rank = seed, kind, shape.adapters.rank
        specs = parameter_specs(shape.moved)
        self._numbers = {spec.name: (number, spec.shape) for number, spec in enumerate(specs)}

    def read(self, name: str, box: Box) -> np.ndarray:
        number, shape = self._numbers[name]
        places = tuple(slice(start, stop) for start, stop in box)
        if f".{DOWN}." not in name:
            return np.zeros(shape, np.float32)[places]
        rng = np.random.default_rng([self._seed, number])
        if self._kind == "gaussian":
            values = rng.standard_normal(shape, np.float32) / np.float32(self._rank)
        else:
            values = (2 * rng.random(shape, np.float32) - 1) / np.float32(np.sqrt(shape[1]))
        return values[places]
