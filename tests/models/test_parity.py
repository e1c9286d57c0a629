"""Our decoder against transformers' Qwen2, Qwen3 and Llama on random weights: logits, gradients, files."""

import json

import numpy as np
import pytest
from helpers import TINY, random_weights
from mindspore import Tensor, jit

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import load_weights, save_hf_model
from mindrlhf_lite.shapes.model_config import ModelConfig, RopeScaling

torch = pytest.importorskip("torch")

BASE = dict(vocab_size=97, intermediate_size=48, num_hidden_layers=2, rope_theta=10000.0, max_position_embeddings=128)
SHAPES = {
    "untied_gqa2": ModelConfig(
        **BASE, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False
    ),
    "tied_mha": ModelConfig(
        **BASE, hidden_size=32, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True
    ),
    "tied_mqa": ModelConfig(
        **BASE, hidden_size=48, num_attention_heads=6, num_key_value_heads=1, tie_word_embeddings=True
    ),
    "head_dim_wider": ModelConfig(
        **BASE, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=16, tie_word_embeddings=False
    ),
    "qwen25_like": ModelConfig(
        **{**BASE, "rope_theta": 1e6},
        hidden_size=56,
        num_attention_heads=14,
        num_key_value_heads=2,
        head_dim=4,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    ),
    "qwen3": ModelConfig(
        **BASE,
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
        model_type="qwen3",
    ),
    "llama3": ModelConfig(
        **BASE,
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        model_type="llama",
    ),
    # frequencies of 8 tokens' context: the first is kept, the second blended, the others stretched
    "llama31": ModelConfig(
        **{**BASE, "rope_theta": 100.0},
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        model_type="llama",
        rope_scaling=RopeScaling(8.0, 0.5, 1.2, 8),
    ),
}


def transformers_model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.mark.parametrize("name", SHAPES)
def test_logits_equal_transformers(name, tmp_path):
    config = SHAPES[name]
    save_hf_model(tmp_path, config, random_weights(config), 1, 0)
    reference = transformers_model(tmp_path)
    model = Decoder(config, load_weights(tmp_path, ModelConfig.from_dir(tmp_path)), False, 64)
    rng = np.random.default_rng(1)
    lengths = [23, 9, 1]
    token_ids = np.zeros((3, 23), np.int32)
    for row, length in enumerate(lengths):
        token_ids[row, :length] = rng.integers(0, 97, length)

    @jit
    def forward(ids):
        return model(ids)

    logits = forward(Tensor(token_ids)).asnumpy()
    for row, length in enumerate(lengths):  # transformers sees each row without padding
        with torch.no_grad():
            expected = reference(torch.tensor(token_ids[row : row + 1, :length].astype(np.int64))).logits[0].numpy()
        assert np.abs(expected).max() > 1  # large enough for 1e-4 to mean something
        np.testing.assert_allclose(logits[row, :length], expected, atol=1e-4)


@pytest.mark.parametrize("shape", ["tied_mqa", "qwen3"])
def test_gradients_equal_torch_autograd(tmp_path, shape):
    """Every parameter's gradient of -sum(advantage * logprob): the written-out attention and head gradients are
    right.
    """
    from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
    from mindrlhf_lite.learner.adamw import AdamWOptions
    from mindrlhf_lite.learner.policy_loss import Objective
    from mindrlhf_lite.learner.trained_model import Actor
    from mindrlhf_lite.scoring.batches import make_microbatch
    from mindrlhf_lite.shapes.streams import StreamShapes
    from mindrlhf_lite.types import TrainSequence

    config = SHAPES[shape]
    weights = random_weights(config)
    save_hf_model(tmp_path, config, weights, 1, 0)
    reference = transformers_model(tmp_path)
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 97, 4), rng.integers(0, 97, 6)  # the first prompt has three completions
    sequences = [
        TrainSequence.of(np.concatenate([prompt, rng.integers(0, 97, n)]).astype(np.int32), len(prompt), a)
        for prompt, n, a in ((first, 5, 1.0), (first, 1, -0.5), (first, 9, 0.3), (second, 7, -0.8))
    ]
    total, loss = sum(s.completion_length for s in sequences), 0.0
    for s in sequences:
        ids = torch.tensor(s.token_ids.astype(np.int64))
        logprobs = torch.log_softmax(reference(ids[None]).logits[0], -1)
        chosen = logprobs[torch.arange(s.prompt_length - 1, len(ids) - 1), ids[s.prompt_length :]]
        loss = loss - s.advantages[0] / total * chosen.sum()
    loss.backward()
    expected = {name: parameter.grad.numpy() for name, parameter in reference.named_parameters()}

    actor = Actor(Decoder(config, weights, True, 16), Objective(), AdamWOptions())
    actor.accumulate([make_microbatch(sequences, StreamShapes(64, 16), token_mean, BatchTotals(total, 4, 12))])
    for gradient in actor.optimizer.gradients:
        name = gradient.name.removeprefix("gradient.")
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(gradient.asnumpy(), expected[name], atol=2e-5 * scale, rtol=1e-3, err_msg=name)


def test_bfloat16_and_sharded_checkpoints_load(tmp_path):
    from safetensors.torch import save_file

    weights = random_weights(TINY)
    as_bf16 = {name: torch.tensor(value).to(torch.bfloat16) for name, value in weights.items()}
    half = len(as_bf16) // 2
    parts = {"a.safetensors": dict(list(as_bf16.items())[:half]), "b.safetensors": dict(list(as_bf16.items())[half:])}
    for name, part in parts.items():
        save_file(part, tmp_path / name)
    index = {"weight_map": {tensor: name for name, part in parts.items() for tensor in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = load_weights(tmp_path, TINY)
    for name, value in as_bf16.items():
        np.testing.assert_array_equal(loaded[name], value.float().numpy(), err_msg=name)


def test_written_shards_are_read_back_and_by_transformers(tmp_path):
    weights = random_weights(TINY)
    save_hf_model(tmp_path, TINY, weights, [1, 2], 0, max_file_bytes=20_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded = load_weights(tmp_path, TINY)
    reference = transformers_model(tmp_path).state_dict()
    for name, value in weights.items():
        np.testing.assert_array_equal(loaded[name], value)
        np.testing.assert_array_equal(reference[name].numpy(), value)


def test_a_tied_checkpoint_may_repeat_its_head(tmp_path):
    from safetensors.numpy import save_file

    config = SHAPES["tied_mha"]
    weights = random_weights(config)
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}, tmp_path / "model.safetensors")
    assert load_weights(tmp_path, config).keys() == weights.keys()


def test_every_misfit_is_named_at_once(tmp_path):
    from safetensors.numpy import save_file

    weights = random_weights(TINY)
    del weights["model.norm.weight"]
    weights["extra.weight"] = np.zeros(3, np.float32)
    weights["lm_head.weight"] = weights["lm_head.weight"][:-1]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as error:
        load_weights(tmp_path, TINY)
    for part in (
        "missing model.norm.weight (32,)",
        "unexpected extra.weight (3,)",
        "lm_head.weight has shape (96, 32), the config says (97, 32)",
    ):
        assert part in str(error.value)


def test_a_cut_file_is_named(tmp_path):
    save_hf_model(tmp_path, TINY, random_weights(TINY), 1, 0)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors: cut short"):
        load_weights(tmp_path, TINY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, r"supported: 'qwen2' \(Qwen2, Qwen2\.5\), 'qwen3' \(Qwen3 dense\), 'llama'"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "'llama3' is"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"mlp_bias": True}, "mlp_bias=True is not supported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling lacks low_freq_factor"),
    ],
)
def test_unsupported_configs_are_refused_by_name(change, message):
    values = {**TINY.to_hf(1, 0), **change}
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_hf(values)
