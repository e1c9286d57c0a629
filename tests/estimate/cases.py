"""Shipped strategies, as a run on Ascend has them."""

from helpers import ROOT

from mindrlhf_lite.config.model_file import read_model_file
from mindrlhf_lite.launch.command_line import parse_command_line

MODELS = ("0_5b", "1_5b", "3b", "7b", "14b", "32b", "72b")  # derived by python -m mindrlhf_lite.estimate
DEVICES = (8, 16, 64)


def shipped(model, devices, *settings):
    """(the configuration, the shape)"""
    path = str(ROOT / f"model_configs/qwen2_5_{model}.yaml")
    words = ["--config", str(ROOT / "examples/qwen_grpo/grpo_config.yaml"), "--model_config", path, "--dry_run"]
    words += ["--devices", str(devices), "--context.device_target=Ascend", *settings]
    return parse_command_line(words).config, read_model_file(path).shape
