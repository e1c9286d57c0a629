"""Folders of models as they come: a stale index, tables that are no weights, ids that no embedding has."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers import TINY, random_weights
from safetensors.numpy import load_file, save_file

from mindrlhf_lite.config.file_checks import data_problems
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.records import Header, write_prompts
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.hf_weights import load_weights, save_hf_model, weight_files
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.trainer.prompts import prompts_of_run
from mindrlhf_lite.types import Prompt

OLD, NEW = random_weights(TINY, 1), random_weights(TINY, 2)
SMALL_FILES = 20_000


@pytest.mark.parametrize("are_there", [True, False])
def test_the_single_file_wins_over_an_index_of_an_older_model(tmp_path, are_there):
    save_hf_model(tmp_path, TINY, OLD, 1, 0, SMALL_FILES)
    shards = weight_files(tmp_path)
    assert len(shards) > 1
    save_file(NEW, tmp_path / "model.safetensors")
    for path in shards if not are_there else []:
        path.unlink()
    found = load_weights(tmp_path, TINY)
    assert all(np.array_equal(found[name], NEW[name]) for name in NEW)


def test_what_is_written_is_what_is_read_whatever_was_there(tmp_path):
    for weights, most in ((OLD, 1 << 30), (NEW, SMALL_FILES), (OLD, 1 << 30)):
        save_hf_model(tmp_path, TINY, weights, 1, 0, most)
        found = load_weights(tmp_path, TINY)
        assert all(np.array_equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.1.self_attn.rotary_emb.cos_cached",
        "model.rotary_emb.inv_freq",
        "model.layers.0.self_attn.masked_bias",
        "model.layers.0.attn.bias",
    ],
)
def test_tables_that_older_versions_saved_are_left_out(tmp_path, name):
    save_hf_model(tmp_path, TINY, NEW, 1, 0)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), name: np.ones(4, np.float32)}, file)
    assert load_weights(tmp_path, TINY).keys() == NEW.keys()


def test_a_bias_that_is_a_weight_is_still_named(tmp_path):
    save_hf_model(tmp_path, TINY, NEW, 1, 0)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), "model.layers.0.mlp.up_proj.bias": np.ones(4, np.float32)}, file)
    with pytest.raises(UserError, match=r"unexpected model.layers.0.mlp.up_proj.bias"):
        load_weights(tmp_path, TINY)


@pytest.fixture
def folder(tmp_path, quickstart_model):
    """A model whose tokenizer has one token more than its embedding: for padding."""
    shutil.copytree(quickstart_model, tmp_path / "model")
    path = tmp_path / "model/tokenizer_config.json"
    size = ModelConfig.from_dir(tmp_path / "model").vocab_size
    values = json.loads(path.read_text())
    values["added_tokens_decoder"][str(size)] = {"content": "<|pad|>", "special": True}
    path.write_text(json.dumps({**values, "pad_token": "<|pad|>"}))
    return tmp_path / "model"


def problems(folder, tmp_path, text, header_knows):
    tokenizer = Tokenizer(str(folder))
    ids = tuple(tokenizer.encode(text))
    header = Header("x", tokenizer.fingerprint(), "plain", {"s": 1}, len(ids), max(ids) if header_knows else -1)
    write_prompts(tmp_path / "p.mindrecord", [Prompt(0, ids, text, "1", 7, "s")], header=header)
    config = Config()
    config = replace(
        config,
        rl_config=replace(
            config.rl_config, dataset_file=str(tmp_path / "p.mindrecord"), chunk_size=1, output_dir=str(tmp_path / "o")
        ),
        actor_config=replace(config.actor_config, load=str(folder)),
    )
    return config, tokenizer, data_problems(config)


@pytest.mark.parametrize("header_knows", [True, False])
def test_a_pad_token_beyond_the_embedding_matters_only_in_a_prompt(folder, tmp_path, header_knows):
    size = ModelConfig.from_dir(folder).vocab_size
    config, tokenizer, found = problems(folder, tmp_path, "1+2=", header_knows)
    assert tokenizer.pad_token_id == size and not found
    assert len(prompts_of_run(config, tokenizer)[0]) == 1
    config, tokenizer, found = problems(folder, tmp_path, "1+2=<|pad|>", header_knows)
    assert [f"token id {size}, but the model's vocabulary has {size}" in line for line in found] == [
        True
    ] * header_knows
    with pytest.raises(UserError, match=f"row 7 has token id {size}"):
        prompts_of_run(config, tokenizer)


def test_a_pad_token_beyond_the_embedding_is_not_written_into_a_config(tmp_path):
    """transformers asserts that padding_idx lies in the embedding."""
    save_hf_model(tmp_path, TINY, NEW, 1, TINY.vocab_size)
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] is None
