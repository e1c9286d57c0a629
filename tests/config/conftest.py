"""Fixtures of several files."""

import pytest
from helpers import ROOT

from mindrlhf_lite.config.load import read_yaml


@pytest.fixture
def values(quickstart_model, tmp_path):
    (tmp_path / "train.mindrecord").write_bytes(b"")
    return {
        **read_yaml(ROOT / "examples/quickstart/grpo_config.yaml"),
        "rl_config.eval_interval": 0,
        "actor_config.load": str(quickstart_model),
        "rl_config.dataset_file": str(tmp_path / "train.mindrecord"),
    }
