"""A model's shape, and strategies for it, from a YAML of model_configs/, one of MindFormers or MindSpeed-RL, or a
Hugging Face folder.

Our YAML has `model:` with the keys of a Hugging Face config.json, and `strategies:` by number of devices, each with the
settings of actor_config, ref_config and generate_config that it proposes. MindFormers' has `model: model_config:` and
one `parallel_config:`; MindSpeed-RL's has Megatron's keys below the model's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mindrlhf_lite.config.dotted import by_dotted_key
from mindrlhf_lite.config.roles import ROLES, RoleSpec, reads_own_tokens
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.errors import UserError, short_repr
from mindrlhf_lite.files.json_file import read_json
from mindrlhf_lite.files.strict_yaml import read_yaml_file
from mindrlhf_lite.models.megatron import is_megatron, shape_from_megatron
from mindrlhf_lite.models.mindformers import shape_from_mindformers, strategies_from_mindformers
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.token_ids import check_token_ids


@dataclass(frozen=True)
class ModelFile:
    """Example: ModelFile(shape, {8: {"actor_config.parallel_config.model_parallel": 4, ...}})"""

    shape: ModelConfig
    strategies: dict[int, dict[str, Any]] = field(default_factory=dict)
    end_token_ids: Any = None
    pad_token_id: int | None = None
    compute_dtype: str = ""  # as MindFormers' files name types; empty: not said
    param_dtype: str = ""


_KEYS = tuple(f"{role.section}.model_config" for role in ROLES)


def beside(values: dict[str, Any], path: str) -> tuple[dict[str, Any], list[str]]:
    """The settings of a file, with the places of model files that are not there from the current folder, but are named
    relative to the file's folder or one above it, or lie beside it; and a note on each.
    """
    found, notes = dict(values), []
    for key in _KEYS:
        name = values.get(key)
        if not isinstance(name, str) or not name or Path(name).exists():
            continue
        above = Path(path).resolve().parents
        candidates = [*(folder / name for folder in above), above[0] / Path(name).name]
        place = next((candidate for candidate in candidates if candidate.exists()), None)
        if place is not None:
            found[key] = str(place)
            notes.append(f"note: {key}={name!r} is not in {Path.cwd()}: {place} is taken, seen from {path}")
    return found, notes


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
    values = read_yaml_file(path, "model_config")
    if is_megatron(values):
        return ModelFile(shape_from_megatron(next(iter(values.values())), path))
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise UserError(
            f"model_config {path}: a section model: with the keys of a Hugging Face config.json is needed, or "
            "model.model_config: as in MindFormers"
        )
    model = values["model"]
    if "model_config" in model and not isinstance(model["model_config"], dict):
        raise UserError(
            f"model_config {path}: model.model_config must be a mapping, not {short_repr(model['model_config'])}"
        )
    if "model_config" in model:
        model, folder = model["model_config"], values.get("pretrained_model_dir")
        if folder and not any(
            key in model for key in ("hidden_size", "num_layers")
        ):  # newer files leave the shape to a Hugging Face folder
            return replace(_shape_of_folder(folder, path), strategies=strategies_from_mindformers(values, path))
        check_token_ids(model, f"model_config {path}: model.model_config")
        return ModelFile(
            shape_from_mindformers(model, path),
            strategies_from_mindformers(values, path),
            model.get("eos_token_id"),
            model.get("pad_token_id"),
            str(model.get("compute_dtype") or ""),
            str(model.get("param_init_type") or ""),
        )
    strategies = _strategies(values.get("strategies") or {}, path)
    return ModelFile(ModelConfig.from_hf(model, path), strategies, model.get("eos_token_id"), model.get("pad_token_id"))


def shape_of_actor(config: Config) -> ModelConfig:
    """Of the model that is trained, from its folder or its model file."""
    shape = read_model_file(config.actor_config.load or config.actor_config.model_config).shape
    return shape.scoring if config.trains_scores else shape


def shape_of_role(config: Config, role: RoleSpec, actors: ModelConfig) -> ModelConfig:
    """Of a role's model, without weights. Args: actors: of the actor's, which most roles share."""
    section = role.section_of(config)
    own = (section.load or section.model_config) if role.has_own_model else ""
    shape = read_model_file(own).shape if own else actors
    return shape.scoring if role.gives_scores else shape


def vocabulary_problem(role: RoleSpec, shape: ModelConfig, actors: ModelConfig, config: Config) -> str:
    """Why a role's model cannot score the actor's tokens; "": it can. Beyond the tokenizer's ids an embedding is
    padding, of which a model of another size may have more.
    """
    is_larger = role.has_own_model and shape.vocab_size > actors.vocab_size
    if shape.vocab_size == actors.vocab_size or is_larger or reads_own_tokens(role, config):
        return ""
    return f"vocabulary of {shape.vocab_size}, the actor's has {actors.vocab_size}"


def _shape_of_folder(folder: Any, path: str) -> ModelFile:
    if not isinstance(folder, str) or not Path(folder).is_dir():
        raise UserError(
            f"model_config {path}: pretrained_model_dir={short_repr(folder)}: a Hugging Face folder is needed"
        )
    return read_model_file(folder)


def _strategies(given: Any, path: str) -> dict[int, dict[str, Any]]:
    """Settings by number of devices."""
    is_whole = isinstance(given, dict) and all(
        isinstance(devices, int) and isinstance(settings, dict) for devices, settings in given.items()
    )
    if not is_whole:
        raise UserError(f"model_config {path}: strategies: settings by number of devices are needed")
    return {devices: by_dotted_key(settings) for devices, settings in given.items()}


def with_types_of_models(values: dict[str, Any]) -> dict[str, Any]:
    """The settings, with the types that the roles' model files name, where the settings do not. Of the rollout, whose
    weights follow the actor's, the compute type.

    Raises:
        ValueError: a file is missing or broken.
    """
    found = {}
    for spec in ROLES:
        role = spec.section
        path = values.get(f"{role}.model_config")
        if not path:
            continue
        try:
            file = read_model_file(str(path))
        except ValueError as error:
            raise UserError(f"{role}.{error}".replace("model_config ", "model_config=", 1)) from None
        found[f"{role}.compute_dtype"] = file.compute_dtype
        if not spec.starts_from_actor:
            found[f"{role}.param_dtype"] = file.param_dtype
    return {**{key: value for key, value in found.items() if value}, **values}
