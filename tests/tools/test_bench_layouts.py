"""Which layouts are compared."""

import importlib.util
import shutil
from dataclasses import replace

import pytest
from helpers import ROOT, random_weights

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.hf_weights import save_hf_model
from mindrlhf_lite.shapes.model_config import ModelConfig


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("bench_layouts", ROOT / "tools/bench_layouts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONFIG = str(ROOT / "examples/quickstart/grpo_config.yaml")


def admitted(tool, model, sums):
    return list(tool._admitted(CONFIG, [f"--actor_config.load={model}", f"--rl_config.dataset_file={sums}"]))


def test_layouts_are_those_that_a_model_admits(tool, sums, quickstart_model, tmp_path):
    assert admitted(tool, quickstart_model, sums) == list(tool.LAYOUTS)[:12]
    given = ModelConfig.from_dir(quickstart_model)
    shape = replace(given, hidden_size=48, num_attention_heads=3, num_key_value_heads=3, head_dim=16)
    save_hf_model(tmp_path / "three_heads", shape, random_weights(shape), None, None)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(quickstart_model / name, tmp_path / "three_heads" / name)
    assert admitted(tool, tmp_path / "three_heads", sums) == [name for name in tool.LAYOUTS if "tp2" not in name][:12]


def test_settings_that_admit_none_are_said(tool):
    with pytest.raises(UserError, match="chunk_size"):
        tool._admitted(CONFIG, ["--rl_config.chunk_size=0"])
