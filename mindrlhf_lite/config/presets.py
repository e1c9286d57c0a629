"""Whole recipes by name: YAML files of the package, with settings of their own source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindrlhf_lite.config.load import ConfigError, facts_of_settings, read_yaml

_FOLDER = Path(__file__).parents[1] / "presets"
PRESETS = tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def without_objective(values: dict[str, Any]) -> dict[str, Any]:
    """The settings, by full dotted key, that a preset leaves alone: it is a whole objective."""
    replaced = {key for key, facts in facts_of_settings().items() if facts.is_objective}
    return {key: value for key, value in values.items() if key not in replaced}


def preset_settings(name: str) -> dict[str, Any]:
    """Its settings by full dotted key.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError([f"--preset {name}: unknown; there are {', '.join(PRESETS)}"])
    return read_yaml(str(_FOLDER / f"{name}.yaml"))
