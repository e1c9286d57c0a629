"""tools/quantize.py: Golden Stick's int8 weights are the rounded ones, a scale for every output channel, and the rest
is as it was.
"""

import sys
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import yaml
from helpers import TINY, random_weights, run, run_python

from mindrlhf_lite.checkpoint.quantize import GOLDEN_STICK_FOLDER
from mindrlhf_lite.models.hf_weights import save_hf_model
from mindrlhf_lite.models.mindformers import mindformers_name

needs_golden_stick = pytest.mark.skipif(
    not (Path(sys.prefix) / GOLDEN_STICK_FOLDER).is_dir(), reason="needs Golden Stick: bash build.sh --quantize"
)


@needs_golden_stick
def test_weights_are_rounded_to_the_nearest_of_255_steps(tmp_path):
    weights = random_weights(TINY)
    save_hf_model(tmp_path / "hf", TINY, weights, 5, 0)
    result = run_python("tools/quantize.py", "--model", tmp_path / "hf", "--output", tmp_path / "out")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert (
        result.stdout.startswith("wrote")
        and "14 linear layers in int8" in result.stdout
        and result.stdout.count("\n") == 1
    )  # seven a layer
    saved = {
        name: parameter.asnumpy() for name, parameter in ms.load_checkpoint(str(tmp_path / "out/model.ckpt")).items()
    }
    rounded = 0
    for name, values in weights.items():
        layer, _, kind = mindformers_name(name).rpartition(".")
        if f"{layer}._handler.weight" not in saved:
            np.testing.assert_array_equal(saved[f"{layer}.{kind}"], values)
            continue
        if kind == "bias":
            np.testing.assert_array_equal(saved[f"{layer}._handler.bias"], values)
            continue
        integers, scale = saved[f"{layer}._handler.weight"], saved[f"{layer}._weight_quantizer.scale"]
        assert (
            integers.dtype == np.int8
            and scale.shape == (values.shape[0],)
            and not saved[f"{layer}._weight_quantizer.zp_neg"].any()
        )
        assert (np.abs(integers * scale[:, None] - values) <= 0.5001 * scale[:, None]).all()
        assert (np.abs(integers.astype(int)).max(1) >= 126).all()  # each output channel uses its whole range
        rounded += 1
    assert rounded == 14 and saved["lm_head.weight"].dtype == np.float32
    method = yaml.safe_load((tmp_path / "out/model.yaml").read_text())["model"]["model_config"]["quantization_config"]
    assert method["quant_method"] == "rtn" and method["modules_to_not_convert"] == ["lm_head"]


@needs_golden_stick
@pytest.mark.parametrize("keep", [(), ("--keep",)], ids=["default", "empty"])
def test_a_tied_head_stays(tmp_path, keep):
    shape = replace(TINY, tie_word_embeddings=True)
    weights = {name: value for name, value in random_weights(shape).items() if name != "lm_head.weight"}
    save_hf_model(tmp_path / "hf", shape, weights, 5, 0)
    result = run_python("tools/quantize.py", "--model", tmp_path / "hf", "--output", tmp_path / "out", *keep)
    assert result.returncode == 0 and "14 linear layers in int8" in result.stdout, result.stdout + result.stderr
    saved = ms.load_checkpoint(str(tmp_path / "out/model.ckpt"))
    assert not [name for name in saved if "lm_head" in name]
    np.testing.assert_array_equal(
        saved["model.tok_embeddings.embedding_weight"].asnumpy(), weights["model.embed_tokens.weight"]
    )


@needs_golden_stick
def test_layers_to_keep_must_be_there(tmp_path):
    save_hf_model(tmp_path / "hf", TINY, random_weights(TINY), 5, 0)
    result = run_python(
        "tools/quantize.py", "--model", tmp_path / "hf", "--output", tmp_path / "out", "--keep", "nothing"
    )
    assert (
        result.returncode == 2
        and "--keep nothing: no layer has that in its name" in result.stderr
        and not (tmp_path / "out").exists()
    )


def test_what_cannot_be_quantized_is_said(tmp_path):
    shape = replace(TINY, model_type="qwen3")
    save_hf_model(tmp_path / "qwen3", shape, random_weights(shape), 5, 0)
    result = run_python("tools/quantize.py", "--model", tmp_path / "qwen3", "--output", tmp_path / "out")
    assert result.returncode == 2 and "no norms of query and key" in result.stderr
    save_hf_model(tmp_path / "hf", TINY, random_weights(TINY), 5, 0)
    result = run_python("tools/quantize.py", "--model", tmp_path / "hf", "--output", tmp_path / "qwen3")
    assert result.returncode == 2 and "exists already" in result.stderr
    code = (
        "import sys; sys.prefix = '/nonexistent'; from mindrlhf_lite.checkpoint.quantize import quantize; "
        "quantize(sys.argv[1], sys.argv[2])"
    )
    result = run([sys.executable, "-c", code, tmp_path / "hf", tmp_path / "out"])
    assert "bash build.sh --quantize" in result.stderr and not (tmp_path / "out").exists()
