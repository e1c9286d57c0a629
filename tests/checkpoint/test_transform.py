"""Conversions between strategies: there and back, bit for bit; memory stays at one file."""

import subprocess
import sys
from dataclasses import replace

import pytest
from helpers import ROOT, TINY, clean_environment, random_weights, run_python

from mindrlhf_lite.checkpoint.open_checkpoint import open_checkpoint
from mindrlhf_lite.checkpoint.transform import transform
from mindrlhf_lite.models.hf_weights import save_hf_model
from mindrlhf_lite.parallel.layout import parse_strategy
from mindrlhf_lite.shapes.model_config import ModelConfig

STRATEGIES = ["dp=1,tp=2,pp=2", "dp=2,tp=4,pp=1", "dp=1,tp=1,pp=2,layers=3/1", "dp=1,tp=1,pp=1"]


@pytest.mark.parametrize("is_tied", [True, False])
def test_full_to_shards_to_other_shards_and_back(tmp_path, is_tied):
    config = replace(TINY, num_hidden_layers=4, tie_word_embeddings=is_tied)
    weights = random_weights(config)
    save_hf_model(tmp_path / "full", config, weights, [5, 6], 0)
    source = tmp_path / "full"
    for number, text in enumerate(STRATEGIES):
        transform(open_checkpoint(source), tmp_path / str(number), parse_strategy(text, "test", config))
        source = tmp_path / str(number)
    transform(open_checkpoint(source), tmp_path / "back", None)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "full" / name).read_bytes()
    assert (
        len(list((tmp_path / "0").glob("rank_*"))) == 4 and len(list((tmp_path / "1").glob("rank_*"))) == 4
    )  # replicas are not written twice


def command(source, destination, strategy, *more):
    where = ("--src_checkpoint", source, "--dst_checkpoint", destination, "--dst_strategy", strategy)
    return run_python("tools/transform_checkpoint.py", *where, *more)


@pytest.fixture
def two(tmp_path):
    """Shards of two tensor ranks, made of tmp_path / "full"."""
    save_hf_model(tmp_path / "full", TINY, random_weights(TINY), 5, 0)
    made = command(tmp_path / "full", tmp_path / "two", "dp=1,tp=2,pp=1")
    assert made.returncode == 0 and "wrote" in made.stdout, made.stderr
    return tmp_path / "two"


def test_the_command_takes_a_strategy_file(two, tmp_path):
    (tmp_path / "strategy.json").write_text('{"model_parallel": 4}')
    made = command(two, tmp_path / "four", tmp_path / "strategy.json")
    assert made.returncode == 0, made.stderr


def test_mistakes_of_the_command_are_named(two, tmp_path):
    for arguments, message in (
        ((tmp_path, tmp_path / "x", "full"), "neither state.json"),
        ((two, tmp_path / "full", "full"), "not empty"),
        ((two, tmp_path / "x", "tp=3"), "num_attention_heads 4 % model_parallel 3 = 1"),
        ((two, tmp_path / "x", "full", "--src_strategy", "tp=4"), "rank_00002.safetensors is missing"),
    ):
        result = command(*arguments)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_memory_does_not_grow_with_the_model(tmp_path):
    """Models of 60 and 180 MB into shards of a quarter: what is added to the peak is about a shard, not a model."""
    peaks = {}
    for layers in (4, 12):
        config = ModelConfig(1000, 512, 2048, layers, 8, 4, tie_word_embeddings=True)
        folder = tmp_path / f"full{layers}"
        save_hf_model(folder, config, random_weights(config), 5, 0, max_file_bytes=32 << 20)
        command = [
            sys.executable,
            str(ROOT / "tools/transform_checkpoint.py"),
            "--src_checkpoint",
            str(folder),
            "--dst_checkpoint",
            str(tmp_path / f"s{layers}"),
        ]
        result = subprocess.run(
            [*command, "--dst_strategy", "tp=2,pp=2"], capture_output=True, text=True, env=clean_environment()
        )
        assert result.returncode == 0, result.stderr
        peaks[layers] = float(result.stdout.rsplit("peak memory ", 1)[1].split()[0])
    growth = (12 - 4) * 15.2 / 1024  # GiB that the larger model is larger by, 3.8M parameters a layer
    assert peaks[12] - peaks[4] < 0.6 * growth, peaks


def test_a_shard_of_another_strategy_is_named(tmp_path):
    save_hf_model(tmp_path / "full", TINY, random_weights(TINY), 5, 0)
    transform(open_checkpoint(tmp_path / "full"), tmp_path / "pp", parse_strategy("pp=2", "test"))
    with pytest.raises(ValueError, match=r"no tensor weight/.*another strategy|is missing|covers"):
        transform(open_checkpoint(tmp_path / "pp", parse_strategy("tp=1,pp=1", "test")), tmp_path / "x", None)


def test_the_tokenizer_stays_with_the_weights(tmp_path, quickstart_model):
    """hf -> shards -> other shards -> hf, by both tools; where there is none, that is said."""
    transform_tool = ("tools/transform_checkpoint.py", "--dst_checkpoint")
    steps = [
        (*transform_tool, tmp_path / "a", "--src_checkpoint", quickstart_model, "--dst_strategy", "dp=1,tp=2,pp=1"),
        (
            "tools/convert_weight.py",
            "--input_path",
            tmp_path / "a",
            "--output_path",
            tmp_path / "b",
            "--dst_strategy",
            "dp=1,tp=1,pp=2",
        ),
        (*transform_tool, tmp_path / "c", "--src_checkpoint", tmp_path / "b", "--dst_strategy", "full"),
        ("tools/convert_weight.py", "--input_path", tmp_path / "b", "--output_path", tmp_path / "d"),
    ]
    for command in steps:
        result = run_python(*command)
        assert result.returncode == 0 and "no tokenizer" not in result.stdout, result.stdout + result.stderr
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (
            (tmp_path / "c" / name).read_bytes()
            == (tmp_path / "d" / name).read_bytes()
            == (quickstart_model / name).read_bytes()
        )
    save_hf_model(tmp_path / "bare", TINY, random_weights(TINY), 5, 0)
    result = run_python(
        *transform_tool, tmp_path / "e", "--src_checkpoint", tmp_path / "bare", "--dst_strategy", "full"
    )
    assert result.returncode == 0 and f"note: no tokenizer beside {tmp_path / 'bare'}" in result.stdout
