"""MindFormers' names and YAML: its own model on CPU gives the same logits from a converted checkpoint; shapes and
settings from its files.
"""

import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import TINY, random_weights, run
from mindspore import Tensor, jit

from mindrlhf_lite.checkpoint.open_checkpoint import open_checkpoint
from mindrlhf_lite.checkpoint.transform import write_mindformers
from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.model_file import read_model_file
from mindrlhf_lite.config.validate import find_problems
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import save_hf_model
from mindrlhf_lite.models.mindformers import mindformers_settings, shape_from_mindformers
from mindrlhf_lite.shapes.model_config import ModelConfig, RopeScaling

SHAPES = {
    "qwen2": TINY,
    "qwen2_tied": replace(TINY, tie_word_embeddings=True),
    "llama31": replace(TINY, model_type="llama", rope_theta=100.0, rope_scaling=RopeScaling(8.0, 0.5, 1.2, 8)),
}


def mindformers_yaml(shape: ModelConfig) -> dict:
    """As in MindFormers' Qwen2.5 files, cut to what it and we read."""
    model = {
        "type": "LlamaConfig",
        "hidden_size": shape.hidden_size,
        "num_layers": shape.num_hidden_layers,
        "num_heads": shape.num_attention_heads,
        "n_kv_heads": shape.num_key_value_heads,
        "vocab_size": shape.vocab_size,
        "intermediate_size": shape.intermediate_size,
        "qkv_has_bias": shape.model_type == "qwen2",
        "rms_norm_eps": shape.rms_norm_eps,
        "theta": shape.rope_theta,
        "max_position_embedding": shape.max_position_embeddings,
        "eos_token_id": 5,
        "pad_token_id": 0,
        "extend_method": "None",
        "qkv_concat": False,
        "tie_word_embeddings": shape.tie_word_embeddings,
    }
    if shape.rope_scaling:
        model.update(extend_method="LLAMA3", scaling_factor=asdict(shape.rope_scaling))
    parallel = {
        "data_parallel": 2,
        "model_parallel": 2,
        "pipeline_stage": 2,
        "use_seq_parallel": True,
        "micro_batch_num": 2,
        "vocab_emb_dp": False,
    }
    return {
        "model": {"model_config": model, "arch": {"type": "LlamaForCausalLM"}},
        "parallel_config": {**parallel, "gradient_aggregation_group": 4},
        "recompute_config": {"recompute": True},
    }


def write_yaml(path: Path, values: dict) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.skipif(find_spec("mindformers") is None, reason="needs MindFormers: bash build.sh --mindformers")
@pytest.mark.parametrize(("name", "suffix"), [("qwen2", "ckpt"), ("qwen2_tied", "safetensors"), ("llama31", "ckpt")])
def test_mindformers_own_model_gives_the_same_logits(tmp_path, name, suffix):
    shape = SHAPES[name]
    weights = random_weights(shape)
    save_hf_model(tmp_path / "hf", shape, weights, 5, 0)
    write_mindformers(open_checkpoint(tmp_path / "hf"), tmp_path / f"model.{suffix}")
    write_yaml(tmp_path / "model.yaml", mindformers_yaml(shape))
    ids = np.random.default_rng(0).integers(1, shape.vocab_size, (2, 24)).astype(np.int32)
    np.save(tmp_path / "ids.npy", ids)
    script = Path(__file__).with_name("mindformers_logits.py")
    result = run(
        [
            sys.executable,
            script,
            tmp_path / "model.yaml",
            tmp_path / f"model.{suffix}",
            tmp_path / "ids.npy",
            tmp_path / "logits.npy",
        ],
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    model = Decoder(shape, weights, False, 32)

    @jit
    def forward(ids):
        return model(ids)

    ours = forward(Tensor(ids)).asnumpy()
    assert np.abs(ours).max() > 1  # large enough for 1e-4 to mean something
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), ours, atol=1e-4)


def test_a_shape_and_a_strategy_from_its_yaml(tmp_path):
    for shape in SHAPES.values():
        file = read_model_file(str(write_yaml(tmp_path / "model.yaml", mindformers_yaml(shape))))
        assert shape_from_mindformers(mindformers_settings(shape), "ours") == shape
        assert file.shape == shape and (file.end_token_ids, file.pad_token_id) == (5, 0)
        assert file.strategies == {
            8: {
                "actor_config.parallel_config.data_parallel": 2,
                "actor_config.parallel_config.model_parallel": 2,
                "actor_config.parallel_config.pipeline_stage": 2,
                "actor_config.parallel_config.use_seq_parallel": True,
                "actor_config.parallel_config.micro_batch_num": 2,
                "actor_config.parallel_config.vocab_emb_dp": False,
                "actor_config.recompute_config.recompute": True,
            }
        }
        build_config(file.strategies[8])  # every key and type is one of ours


def test_the_shape_may_lie_in_a_hugging_face_folder(tmp_path):
    save_hf_model(tmp_path / "hf", TINY, random_weights(TINY), 5, 0)
    values = {
        "pretrained_model_dir": str(tmp_path / "hf"),
        "model": {"model_config": {"compute_dtype": "bfloat16"}},
        "parallel_config": {"model_parallel": 2},
    }
    file = read_model_file(str(write_yaml(tmp_path / "model.yaml", values)))
    assert file.shape == TINY and file.strategies[2]["actor_config.parallel_config.model_parallel"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "DeepseekV3Config"}, "'LlamaConfig' is"),
        ({"qkv_concat": True}, "qkv_concat=True"),
        ({"extend_method": "YARN"}, "'None' and 'LLAMA3' are"),
        ({"num_layers": None}, "num_hidden_layers"),
        ({"extend_method": "LLAMA3", "scaling_factor": 3}, "scaling_factor=3: a mapping is needed"),
        ({"hidden_size": "abc"}, "hidden_size='abc': a positive number"),
        ({"hidden_size": "abc", "intermediate_size": None}, "hidden_size='abc': a positive number"),
        ({"num_heads": 0}, "num_heads=0: a positive number"),
        ({"n_kv_heads": 3}, r"model\.yaml: model\.model_config: "),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, change, message):
    values = mindformers_yaml(TINY)
    values["model"]["model_config"].update(change)
    with pytest.raises(ValueError, match=message):
        read_model_file(str(write_yaml(tmp_path / "model.yaml", values)))


def test_the_rule_for_an_unnamed_intermediate_size():
    """Llama-7B's: 4096 -> 11008; Llama 3's multiplier 1.3 and 1024: 14336."""
    values = {"hidden_size": 4096, "num_layers": 2, "num_heads": 32, "vocab_size": 32000}
    assert shape_from_mindformers(values, "x").intermediate_size == 11008
    assert (
        shape_from_mindformers({**values, "ffn_dim_multiplier": 1.3, "multiple_of": 1024}, "x").intermediate_size
        == 14336
    )


def test_yaml_and_checkpoint_must_agree(tmp_path):
    save_hf_model(tmp_path / "hf", TINY, random_weights(TINY), 5, 0)
    values = mindformers_yaml(TINY)
    settings = {"actor_config.load": str(tmp_path / "hf"), "actor_config.model_config": str(tmp_path / "model.yaml")}
    write_yaml(tmp_path / "model.yaml", values)
    assert not [line for line in find_problems(build_config(settings), 1) if "model_config" in line]
    values["model"]["model_config"].update(num_layers=3, qkv_has_bias=False, theta=500.0)
    write_yaml(tmp_path / "model.yaml", values)
    lines = [line for line in find_problems(build_config(settings), 1) if "model_config" in line]
    for field, given, actual in (
        ("num_hidden_layers", 3, 2),
        ("model_type", "llama", "qwen2"),
        ("rope_theta", 500.0, 10000.0),
    ):
        assert any(f"{field} is {given}, but {actual} in" in line for line in lines), lines


def test_models_that_mindformers_does_not_have(tmp_path):
    shape = replace(TINY, model_type="qwen3")
    save_hf_model(tmp_path / "hf", shape, random_weights(shape), 5, 0)
    with pytest.raises(ValueError, match="no norms of query and key"):
        write_mindformers(open_checkpoint(tmp_path / "hf"), tmp_path / "model.ckpt")
    assert not (tmp_path / "model.ckpt").exists()
