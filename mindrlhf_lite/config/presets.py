"""Whole recipes by name: YAML files of the package, with settings of their own source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindrlhf_lite.config.aliases.tables import MINDRLHF, MINDSPEED_RL, find_row
from mindrlhf_lite.config.load import ConfigError, facts_of_settings, read_yaml

_FOLDER = Path(__file__).parents[1] / "presets"
PRESETS = tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def without_objective(values: dict[str, Any]) -> dict[str, Any]:
    """The settings, by full dotted key, that a preset leaves alone: it is a whole objective."""
    objective = {key for key, facts in facts_of_settings().items() if facts.is_objective}

    def is_replaced(key: str) -> bool:
        rows = (find_row(toolkit, key) for toolkit in (MINDRLHF, MINDSPEED_RL))
        return key in objective or any(row is not None and row.kind == "to" and row.ours in objective for row in rows)

    return {key: value for key, value in values.items() if not is_replaced(key)}


def preset_settings(name: str) -> dict[str, Any]:
    """Its settings by full dotted key.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError([f"--preset {name}: unknown; there are {', '.join(PRESETS)}"])
    return read_yaml(str(_FOLDER / f"{name}.yaml"))
