"""Checkpoints that do not fit, and conversions that fail: named, and nothing is left behind."""

import json
from dataclasses import replace

import numpy as np
import pytest
from checkpoint.format_cases import SHAPE, broken_ckpt, convert
from helpers import random_weights

from mindrlhf_lite.checkpoint.open_checkpoint import open_checkpoint, open_mindformers
from mindrlhf_lite.checkpoint.transform import transform, write_mindformers
from mindrlhf_lite.models.ckpt_format import write_ckpt
from mindrlhf_lite.models.hf_weights import save_hf_model
from mindrlhf_lite.models.mindformers import mindformers_name
from mindrlhf_lite.models.open_tensors import open_tensor_file
from mindrlhf_lite.models.safetensors_format import write_safetensors
from mindrlhf_lite.models.tensor_files import TensorToWrite


def test_every_misfit_is_named_at_once_and_nothing_is_written(tmp_path, hf):
    changes = {
        "model.layers.3.attention.wq.bias": None,
        **{f"model.layers.{layer}.feed_forward.w3.weight": None for layer in (0, 1, 3)},
        "lm_head.weight": None,
        "model.layers.0.feed_forward.w4.weight": np.zeros((2, 2), np.float32),
        "model.norm_out.weight": np.zeros(7, np.float32),
    }
    broken_ckpt(tmp_path / "bad.ckpt", **changes)
    result = convert("--input_path", tmp_path / "bad.ckpt", "--config_path", hf, "--output_path", tmp_path / "out")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    for text in (
        "missing model.layers.3.attention.wq.bias (32,)",
        "missing model.layers.{0-1,3}.feed_forward.w3.weight (48, 32)",
        "missing lm_head.weight (97, 32)",
        "unexpected model.layers.0.feed_forward.w4.weight (2, 2)",
        "model.norm_out.weight has shape (7,), the config says (32,)",
    ):
        assert text in result.stderr, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.ckpt", "hf"]


def test_a_tied_head_must_be_the_embedding(tmp_path):
    shape = replace(SHAPE, tie_word_embeddings=True)
    weights = random_weights(shape)
    save_hf_model(tmp_path / "hf", shape, weights, 5, 0)
    embedding = weights["model.embed_tokens.weight"]
    for head, is_accepted in ((embedding, True), (embedding + np.float32(1e-6), False), (embedding[:-1], False)):
        tensors = {**{mindformers_name(name): values for name, values in weights.items()}, "lm_head.weight": head}
        write_ckpt(
            tmp_path / "a.ckpt",
            [
                TensorToWrite(name, "F32", v.shape, lambda start, stop, v=v: v[start:stop])
                for name, v in tensors.items()
            ],
        )
        if is_accepted:
            open_mindformers(tmp_path / "a.ckpt", tmp_path / "hf")
        else:
            with pytest.raises(ValueError, match=r"lm_head\.weight is not model\.tok_embeddings"):
                open_mindformers(tmp_path / "a.ckpt", tmp_path / "hf")


def test_what_an_interrupted_conversion_left_is_in_nobodys_way(tmp_path, hf):
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out-abc").mkdir()
    transform(open_checkpoint(hf), tmp_path / "out", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out-abc", ".out.tmp", "hf", "out"]


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": "x", "data_offsets": [0, 8]},
        3,
        {"dtype": "F32", "shape": [2]},
    ],
)
def test_a_broken_safetensors_header_is_named(tmp_path, entry):
    text = json.dumps({"a": entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ValueError, match=r"a\.safetensors: broken safetensors header"):
        open_tensor_file(tmp_path / "a.safetensors")


def test_a_number_too_large_for_fp16_leaves_nothing_behind(tmp_path):
    weights = random_weights(SHAPE)
    weights["model.layers.2.mlp.up_proj.weight"][3, 4] = 1e5
    save_hf_model(tmp_path / "hf", SHAPE, weights, 5, 0)
    for destination in ("out", "out.ckpt", "out.safetensors"):
        result = convert("--input_path", tmp_path / "hf", "--output_path", tmp_path / destination, "--dtype", "fp16")
        assert result.returncode == 2 and "100000 is too large for fp16" in result.stderr, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    def rows(start, stop):
        raise OSError(28, "No space left on device")

    tensor = TensorToWrite("a", "F32", (2, 2), rows)
    for write in (write_ckpt, write_safetensors):
        with pytest.raises(OSError, match="No space"):
            write(tmp_path / "out", [tensor])
    assert not list(tmp_path.iterdir())


def test_mistakes_are_named(tmp_path, hf):
    write_mindformers(open_checkpoint(hf), tmp_path / "a.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:5000])
    (tmp_path / "text.ckpt").write_text("no checkpoint at all")
    config = ("--config_path", hf)
    for arguments, message in (
        ((), "a source and a destination are needed"),
        (("--input_path", hf, "--torch_ckpt_dir", hf, "--output_path", "x"), "not both"),
        (("--input_path", tmp_path / "a.ckpt", "--output_path", tmp_path / "x"), "--config_path: needed"),
        (("--input_path", tmp_path / "none.ckpt", *config, "--output_path", tmp_path / "x"), "no such file"),
        (("--input_path", tmp_path / "cut.ckpt", *config, "--output_path", tmp_path / "x"), "cut short"),
        (("--input_path", tmp_path / "text.ckpt", *config, "--output_path", tmp_path / "x"), "not a MindSpore .ckpt"),
        (("--input_path", hf, "--output_path", tmp_path / "a.ckpt"), "exists already"),
        (("--input_path", hf, "--output_path", tmp_path / "a.bin"), "this format is not written"),
        (("--torch_ckpt_dir", hf, "--mindspore_ckpt_path", tmp_path / "a"), "ends in .ckpt or .safetensors"),
        (("--input_path", hf, "--output_path", hf), "not empty"),
        (
            ("--input_path", hf, "--output_path", tmp_path / "b.ckpt", "--dst_strategy", "tp=2"),
            "rank files go into a folder",
        ),
    ):
        result = convert(*arguments)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "cut.ckpt", "hf", "text.ckpt"]
