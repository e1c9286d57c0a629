"""A model's shape, and strategies for it, from a YAML of model_configs/, a YAML of MindFormers, or a Hugging Face
folder.

Our YAML has `model:` with the keys of a Hugging Face config.json, and `strategies:` by number of devices, each with the
settings of actor_config, ref_config and generate_config that it proposes. MindFormers' has `model: model_config:` and
one `parallel_config:`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.json_file import read_json
from mindrlhf_lite.models.mindformers import shape_from_mindformers, strategies_from_mindformers
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.strict_yaml import load_yaml


@dataclass(frozen=True)
class ModelFile:
    """Example: ModelFile(shape, {8: {"actor_config.parallel_config.model_parallel": 4, ...}})"""

    shape: ModelConfig
    strategies: dict[int, dict[str, Any]] = field(default_factory=dict)
    end_token_ids: Any = None
    pad_token_id: int | None = None


def read_model_file(path: str) -> ModelFile:
    """Reads a YAML of model_configs/ or of MindFormers, or config.json of a folder.

    Raises:
        ValueError: no such file, not YAML, no or a bad `model:` section.
    """
    if Path(path).is_dir():
        shape = ModelConfig.from_dir(path)
        values = read_json(Path(path) / "config.json")
        return ModelFile(shape, {}, values.get("eos_token_id"), values.get("pad_token_id"))
    if not Path(path).is_file():
        raise UserError(f"model_config {path}: no such file or folder")
    try:
        values = load_yaml(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"model_config {path}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise UserError(
            f"model_config {path}: a section model: with the keys of a Hugging Face config.json is needed, or "
            "model.model_config: as in MindFormers"
        )
    model = values["model"]
    if "model_config" in model and not isinstance(model["model_config"], dict):
        raise UserError(f"model_config {path}: model.model_config must be a mapping, not {model['model_config']!r}")
    if "model_config" in model:
        model, folder = model["model_config"], values.get("pretrained_model_dir")
        if folder and not any(
            key in model for key in ("hidden_size", "num_layers")
        ):  # newer files leave the shape to a Hugging Face folder
            return replace(read_model_file(folder), strategies=strategies_from_mindformers(values))
        return ModelFile(
            shape_from_mindformers(model, path),
            strategies_from_mindformers(values),
            model.get("eos_token_id"),
            model.get("pad_token_id"),
        )
    strategies = {int(devices): _flat(settings, "") for devices, settings in (values.get("strategies") or {}).items()}
    return ModelFile(ModelConfig.from_hf(model, path), strategies, model.get("eos_token_id"), model.get("pad_token_id"))


def _flat(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
