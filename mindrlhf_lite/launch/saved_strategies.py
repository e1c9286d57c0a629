"""The roles' parallel strategies as files, for tools/transform_checkpoint.py."""

from __future__ import annotations

import json
from pathlib import Path

from mindrlhf_lite.checkpoint.strategy_file import strategy_to_json
from mindrlhf_lite.config.strategies import role_strategies, saved_strategy
from mindrlhf_lite.files.text_file import write_text
from mindrlhf_lite.launch.command_line import Command
from mindrlhf_lite.parallel.layout import Strategy


def save_strategy(command: Command) -> Path:
    """Writes OUTPUT/strategy.json: how the actor's checkpoint lies on the ranks."""
    return _write_strategy(
        Path(command.config.rl_config.output_dir) / "strategy.json", saved_strategy(command.config, command.num_ranks)
    )


def save_strategies(command: Command, folder: Path) -> None:
    """Writes every role's strategy into a folder."""
    strategies = role_strategies(command.config, command.num_ranks)
    strategies["actor"] = saved_strategy(command.config, command.num_ranks)
    for name, strategy in strategies.items():
        _write_strategy(folder / f"{name}.json", strategy)


def _write_strategy(path: Path, strategy: Strategy) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(strategy_to_json(strategy), indent=1) + "\n")
    return path
