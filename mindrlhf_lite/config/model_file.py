"""A model's shape, and strategies for it, from a YAML of model_configs/ or a Hugging Face folder.

The YAML has `model:` with the keys of a Hugging Face config.json, and `strategies:` by number of devices, each with the settings of
actor_config, ref_config and generate_config that it proposes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mindrlhf_lite.models.model_config import ModelConfig


@dataclass(frozen=True)
class ModelFile:
    """Example: ModelFile(shape, {8: {"actor_config.parallel_config.model_parallel": 4, ...}})"""

    shape: ModelConfig
    strategies: dict[int, dict[str, Any]] = field(default_factory=dict)


def read_model_file(path: str) -> ModelFile:
    """Reads a YAML of model_configs/, or config.json of a folder.

    Raises:
        ValueError: no such file, not YAML, no or a bad `model:` section.
    """
    if Path(path).is_dir():
        return ModelFile(ModelConfig.from_dir(path))
    if not Path(path).is_file():
        raise ValueError(f"model_config {path}: no such file or folder")
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"model_config {path}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise ValueError(f"model_config {path}: a section model: with the keys of a Hugging Face config.json is needed")
    strategies = {int(devices): _flat(settings, "") for devices, settings in (values.get("strategies") or {}).items()}
    return ModelFile(ModelConfig.from_hf(values["model"], path), strategies)


def _flat(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
