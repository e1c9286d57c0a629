"""tools/convert_weight.py and its formats: round trips to the bit, MindSpore reads what is written, misfits are named,
nothing is left of a failure.
"""

import json
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from checkpoint.format_cases import SHAPE, broken_ckpt, convert
from helpers import ROOT, clean_environment, random_weights

from mindrlhf_lite.checkpoint.open_checkpoint import open_checkpoint, open_mindformers
from mindrlhf_lite.checkpoint.store import Checkpoint, CheckpointStore, prefixed
from mindrlhf_lite.checkpoint.strategy_file import strategy_to_json
from mindrlhf_lite.checkpoint.transform import transform, write_mindformers
from mindrlhf_lite.models.mindformers import mindformers_name, mindformers_settings
from mindrlhf_lite.models.open_tensors import open_tensor_file
from mindrlhf_lite.models.safetensors_format import write_safetensors
from mindrlhf_lite.models.stored_numbers import narrow_bfloat16, widen_bfloat16
from mindrlhf_lite.models.tensor_files import TensorToWrite
from mindrlhf_lite.parallel.layout import parse_strategy
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_round_trip_through_every_format(tmp_path, hf, dtype, suffix):
    """Hugging Face -> MindFormers -> shards -> MindFormers -> other shards -> Hugging Face, all in one dtype: the first
    and the last file are equal.
    """
    transform(open_checkpoint(hf), tmp_path / "start", None, dtype=dtype)
    write_mindformers(open_checkpoint(tmp_path / "start"), tmp_path / f"a.{suffix}")
    transform(
        open_mindformers(tmp_path / f"a.{suffix}", hf),
        tmp_path / "shards",
        parse_strategy("dp=1,tp=2,pp=2", "test", SHAPE),
    )
    write_mindformers(open_checkpoint(tmp_path / "shards"), tmp_path / f"b.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    transform(
        open_mindformers(tmp_path / f"b.{suffix}", tmp_path / "start"),
        tmp_path / "wide",
        parse_strategy("tp=4", "test", SHAPE),
    )
    transform(open_checkpoint(tmp_path / "wide"), tmp_path / "end", None)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "end" / name).read_bytes() == (tmp_path / "start" / name).read_bytes()
    if dtype == "F32":
        assert (tmp_path / "start/model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize(("dtype", "kind"), [("F32", ms.float32), ("F16", ms.float16), ("BF16", ms.bfloat16)])
def test_mindspore_reads_what_is_written(tmp_path, hf, suffix, dtype, kind):
    write_mindformers(open_checkpoint(hf), tmp_path / f"a.{suffix}", dtype=dtype)
    loaded = ms.load_checkpoint(str(tmp_path / f"a.{suffix}"), format=suffix)
    weights = random_weights(SHAPE)
    assert set(loaded) == {mindformers_name(name) for name in weights}
    for name, values in weights.items():
        parameter = loaded[mindformers_name(name)]
        assert parameter.dtype == kind
        np.testing.assert_array_equal(
            parameter.astype(ms.float32).asnumpy(), ms.Tensor(values).astype(kind).astype(ms.float32).asnumpy()
        )


def test_a_ckpt_is_byte_for_byte_mindspores_and_its_large_tensors_in_parts(tmp_path, hf, monkeypatch):
    write_mindformers(open_checkpoint(hf), tmp_path / "a.ckpt")
    ms.save_checkpoint(
        [{"name": mindformers_name(name), "data": ms.Tensor(values)} for name, values in random_weights(SHAPE).items()],
        str(tmp_path / "b.ckpt"),
    )
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()
    monkeypatch.setattr("mindrlhf_lite.models.ckpt_format._VALUE_BYTES", 1000)
    monkeypatch.setattr("mindrlhf_lite.models.tensor_files.PIECE_BYTES", 300)
    write_mindformers(open_checkpoint(hf), tmp_path / "parts.ckpt")
    whole, parts, ours = (
        ms.load_checkpoint(str(tmp_path / "a.ckpt")),
        ms.load_checkpoint(str(tmp_path / "parts.ckpt")),
        open_tensor_file(tmp_path / "parts.ckpt"),
    )
    assert max(len(entry.ranges) for entry in ours.entries.values()) > 3
    for name, parameter in whole.items():
        np.testing.assert_array_equal(parameter.asnumpy(), parts[name].asnumpy())
        box = [(1, extent) for extent in parameter.shape]
        np.testing.assert_array_equal(ours.read(name, box), parameter.asnumpy()[tuple(slice(1, None) for _ in box)])


def test_bfloat16_rounds_to_nearest_even_as_torch_does():
    torch = pytest.importorskip("torch")
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint64).astype(np.uint32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1 + 2**-8, 1 + 3 * 2**-8, 3.4028235e38], np.float32)
    values = np.concatenate([bits.view(np.float32), special])
    ours, theirs = widen_bfloat16(narrow_bfloat16(values)), torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        narrow_bfloat16(ours[~np.isnan(ours)]), (ours[~np.isnan(ours)].view(np.uint32) >> 16).astype(np.uint16)
    )


def test_the_options_of_the_older_tool(tmp_path, hf):
    for name in ("tokenizer_config.json", "vocab.json"):
        (hf / name).write_text("{}")
    made = convert("--torch_ckpt_dir", hf, "--mindspore_ckpt_path", tmp_path / "a.ckpt", "--dtype", "bf16")
    assert made.returncode == 0 and "wrote" in made.stdout, made.stderr
    assert {parameter.dtype for parameter in ms.load_checkpoint(str(tmp_path / "a.ckpt")).values()} == {ms.bfloat16}
    back = convert(
        *(
            "--reversed",
            "--mindspore_ckpt_path",
            tmp_path / "a.ckpt",
            "--config_path",
            hf,
            "--torch_ckpt_dir",
            tmp_path / "back",
            "--dtype",
            "fp32",
        )
    )
    assert back.returncode == 0, back.stderr
    assert ModelConfig.from_dir(tmp_path / "back") == SHAPE and (tmp_path / "back/vocab.json").is_file()
    sharded = convert(
        "--input_path",
        tmp_path / "a.ckpt",
        "--config_path",
        hf,
        "--output_path",
        tmp_path / "shards",
        "--dst_strategy",
        "tp=2,pp=2",
    )
    assert sharded.returncode == 0 and len(list((tmp_path / "shards").glob("rank_*"))) == 4, sharded.stderr


def test_a_training_state_is_left_out_and_said(tmp_path, hf):
    state = {"adam_m.model.norm_out.weight": np.zeros(32, np.float32), "global_step": np.array([3.0], np.float32)}
    broken_ckpt(tmp_path / "training.ckpt", **state)
    result = convert("--input_path", tmp_path / "training.ckpt", "--config_path", hf, "--output_path", tmp_path / "out")
    assert result.returncode == 0 and "left out 2 tensors that are no weights" in result.stdout, result.stderr
    assert (tmp_path / "out/model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()


def test_a_runs_checkpoint_knows_its_end_tokens_and_takes_the_tokenizer_from_the_model(tmp_path, hf):
    (hf / "vocab.json").write_text("{}")
    state = {"model": SHAPE.to_hf([5, 6], 0), "strategy": strategy_to_json(parse_strategy("tp=1", "test", SHAPE))}
    CheckpointStore(tmp_path / "checkpoints", 1).save(Checkpoint(7, state, prefixed("weight", random_weights(SHAPE))))
    folder = tmp_path / "checkpoints/step_7"
    assert convert("--input_path", folder, "--output_path", tmp_path / "out", "--config_path", hf).returncode == 0
    for name in ("model.safetensors", "config.json", "vocab.json"):
        assert (tmp_path / "out" / name).read_bytes() == (hf / name).read_bytes()


def test_end_tokens_that_nothing_knows_are_a_warning_and_may_come_from_a_folder(tmp_path, hf):
    values = mindformers_settings(SHAPE)
    (tmp_path / "model.yaml").write_text(json.dumps({"model": {"model_config": values}}))
    write_mindformers(open_checkpoint(hf), tmp_path / "a.ckpt")
    result = convert(
        "--input_path", tmp_path / "a.ckpt", "--config_path", tmp_path / "model.yaml", "--output_path", tmp_path / "out"
    )
    assert result.returncode == 0 and "warning: no end token is known" in result.stdout
    result = convert("--input_path", tmp_path / "out", "--config_path", hf, "--output_path", tmp_path / "named")
    assert (
        json.loads((tmp_path / "named/config.json").read_text())["eos_token_id"] == [5, 6]
        and "warning" not in result.stdout
    )


@pytest.mark.parametrize("destination", ["out.ckpt", "out.safetensors", "out"])
def test_memory_does_not_grow_with_the_model(tmp_path, destination):
    """Models of 60 and 360 MB: the larger one takes no more memory than the smaller, but for a few MiB of names."""
    peaks = {}
    for layers in (4, 24):
        config = ModelConfig(1000, 512, 2048, layers, 8, 4, tie_word_embeddings=True)
        folder = tmp_path / f"hf{layers}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config.to_hf(5, 0)))
        tensors = [
            TensorToWrite(
                spec.name,
                "F32",
                spec.shape,
                lambda start, stop, spec=spec: np.ones((stop - start, *spec.shape[1:]), np.float32),
            )
            for spec in parameter_specs(config)
        ]
        write_safetensors(folder / "model.safetensors", tensors)
        command = [
            sys.executable,
            ROOT / "tools/convert_weight.py",
            "--input_path",
            folder,
            "--output_path",
            tmp_path / f"{layers}{destination}",
        ]
        result = subprocess.run(
            [*map(str, command), "--dtype", "bf16"], capture_output=True, text=True, env=clean_environment()
        )
        assert result.returncode == 0, result.stderr
        peaks[layers] = float(result.stdout.rsplit("peak memory ", 1)[1].split()[0])
    assert peaks[24] - peaks[4] <= 0.03, peaks
