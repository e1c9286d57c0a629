"""Mistakes in what a run's settings name: data, tokenizer, disk, verifiers, device."""

from __future__ import annotations

import os
from pathlib import Path

from mindrlhf_lite.config.environment_settings import conversation_mistakes
from mindrlhf_lite.config.file_checks import data_problems
from mindrlhf_lite.launch.command_line import Command
from mindrlhf_lite.trainer.verifier_trial import trial_problems


def data_mistakes(command: Command) -> list[str]:
    """Mistakes in data, tokenizer, disk and device of a run, which a plan without a model has none of."""
    config = command.config
    if not config.actor_config.load:
        return []
    problems = data_problems(config) or conversation_mistakes(config)
    if command.is_dry_run and not problems:  # a run's ranks try them too, before they load a model
        problems = trial_problems(config)
    return problems + device_mistakes(command)


def device_mistakes(command: Command) -> list[str]:
    if command.config.context.device_target != "Ascend" or command.is_dry_run or has_ascend():
        return []
    return [
        "context.device_target='Ascend': this host has no Ascend device (/dev/davinci_manager); use CPU, or "
        "--dry_run for a plan"
    ]


def has_ascend() -> bool:
    """Whether there is an Ascend device, or MindSpore is told to simulate one."""
    return Path("/dev/davinci_manager").exists() or "MS_SIMULATION_LEVEL" in os.environ
