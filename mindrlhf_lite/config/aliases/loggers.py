"""Loggers that other toolkits' configurations name, as trackers of this one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from mindrlhf_lite.config.aliases.translation import Translation
from mindrlhf_lite.tracking.trackers import NAMES


def with_trackers(translation: Translation, key: str, given: str | list[str]) -> list[str]:
    """Those that can be had here; what becomes of the others is said, and ends no run.

    Args: key: theirs, which has `given`.
    """
    names = [name for name in ([given] if isinstance(given, str) else list(given)) if name != "console"]
    found = [name for name in names if name == "tensorboard" or (name in NAMES and find_spec(name))]
    if found:
        translation.remark(key, given, f"rl_config.trackers: {found}")
    for name in names:
        if name in NAMES and name not in found:
            translation.missing.append(f"{key}: {name}: not installed here: pip install 'mindrlhf_lite[{name}]'")
        elif name not in found:
            translation.missing.append(f"{key}: {name}: known are console, tensorboard, {', '.join(NAMES)}")
    return found


def flagged_trackers(translation: Translation, left: Mapping[str, Any]) -> list[str]:
    """Of MindSpeed-RL's switches. Args: left: settings that are to be worked out."""
    flags = {"wandb": "rl_config.use_wandb", "swanlab": "rl_config.use_swanlab"}
    return [each for name, key in flags.items() if left.get(key) for each in with_trackers(translation, key, name)]
