"""Folders of adapters, in and out."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers import TINY, random_weights
from safetensors.numpy import load_file, save_file

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.fingerprint import model_fingerprint
from mindrlhf_lite.models.hf_weights import save_hf_model
from mindrlhf_lite.models.peft_folder import InitialAdapters, MergedReader, PeftFolder, merged, write_peft_folder
from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy, box_reader, buffers_of_rank, fill_buffers, whole_box
from mindrlhf_lite.shapes.adapters import Adapters
from mindrlhf_lite.shapes.parameters import parameter_specs

SHAPE = replace(TINY, adapters=Adapters(4, 6.0, ("down_proj", "k_proj", "q_proj"), True))


@pytest.fixture
def folders(tmp_path):
    """(the base, its adapters)"""
    weights = random_weights(SHAPE)
    base = {name: values for name, values in weights.items() if "lora" not in name}
    save_hf_model(tmp_path / "base", SHAPE.base, base, 0, 0)
    fingerprint = model_fingerprint(tmp_path / "base")
    write_peft_folder(tmp_path / "adapter", SHAPE, box_reader(weights), str(tmp_path / "base"), fingerprint)
    return tmp_path / "base", tmp_path / "adapter", weights


def test_what_was_written_is_read_bit_for_bit(folders):
    base, adapter, weights = folders
    folder = PeftFolder(adapter, SHAPE.base)
    folder.check_base(base)
    assert folder.shape == SHAPE
    for spec in parameter_specs(SHAPE.moved):
        assert np.array_equal(folder.read(spec.name, whole_box(spec.shape)), weights[spec.name])
    saved, values = (
        load_file(adapter / "adapter_model.safetensors"),
        json.loads((adapter / "adapter_config.json").read_text()),
    )
    assert "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight" in saved and len(saved) == 2 * 2 * 3
    assert (
        values["r"] == 4
        and values["use_rslora"] is True
        and values["target_modules"] == ["down_proj", "k_proj", "q_proj"]
    )


def test_merged_boxes_are_those_of_merged_weights(folders):
    _, adapter, weights = folders
    reader = MergedReader(box_reader(weights), PeftFolder(adapter, SHAPE.base).read, SHAPE)
    name = "model.layers.0.mlp.down_proj"
    expected = (
        weights[f"{name}.weight"] + 6 / np.sqrt(4) * weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
    )
    found = reader.read(f"{name}.weight", ((3, 17), (5, 48)))
    np.testing.assert_allclose(found, expected[3:17, 5:48], rtol=1e-6, atol=1e-6)
    norm = "model.layers.0.input_layernorm.weight"
    assert np.array_equal(reader.read(norm, ((0, 32),)), weights[norm])
    assert merged(np.zeros((2, 3)), np.ones((1, 3)), np.ones((2, 1)), 0.5).tolist() == [[0.5] * 3] * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"r": "8"}, "r='8': a positive number is needed"),
        ({"r": 5}, "does not fit its config"),
        ({"lora_alpha": None}, "lora_alpha=None"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
    ],
)
def test_what_is_not_understood_is_refused(folders, changes, words):
    _, adapter, _ = folders
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(UserError, match=words.replace("[", r"\[")):
        PeftFolder(adapter, SHAPE.base)


def test_names_without_peft_s_prefix(folders):
    _, adapter, weights = folders
    file = adapter / "adapter_model.safetensors"
    save_file({name.removeprefix("base_model.model."): values for name, values in load_file(file).items()}, file)
    name = "model.layers.0.mlp.down_proj.lora_A.weight"
    assert np.array_equal(PeftFolder(adapter, SHAPE.base).read(name, whole_box(weights[name].shape)), weights[name])


def test_adapters_of_another_model(folders, tmp_path):
    base, adapter, _ = folders
    shutil.copytree(base, tmp_path / "other")
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, tmp_path / "other/model.safetensors")
    with pytest.raises(UserError, match="belong to another model"):
        PeftFolder(adapter, SHAPE.base).check_base(tmp_path / "other")
    with pytest.raises(UserError, match="does not fit its config"):
        PeftFolder(adapter, replace(SHAPE.base, num_hidden_layers=1))
    (adapter / "base.json").unlink()  # peft's own folders have none
    PeftFolder(adapter, SHAPE.base).check_base(tmp_path / "other")


@pytest.mark.parametrize("kind", ["default", "gaussian"])
def test_new_adapters_do_not_depend_on_the_layout(kind):
    started = InitialAdapters(SHAPE, 3, kind)
    specs = parameter_specs(SHAPE.moved)
    values = {spec.name: started.read(spec.name, whole_box(spec.shape)) for spec in specs}
    downs = [value for name, value in values.items() if "lora_A" in name]
    assert all(not value.any() for name, value in values.items() if "lora_B" in name)
    assert len({value.tobytes() for value in downs}) == len(downs) == 6
    spread = np.std(np.concatenate([(value * np.sqrt(value.shape[1])).reshape(-1) for value in downs]))
    assert spread == pytest.approx(3**-0.5, rel=0.1) if kind == "default" else spread > 1
    strategy = Strategy(ParallelDims(1, 2, 2))
    for rank in range(4):
        buffers = buffers_of_rank(SHAPE.moved, strategy, rank)
        assert buffers and all("lora" in buffer.name for buffer in buffers)
        for name, array in fill_buffers(buffers, started.read).items():
            (part,) = next(buffer for buffer in buffers if buffer.name == name).parts
            assert np.array_equal(array, values[name][tuple(slice(*bounds) for bounds in part.box)])
    assert not np.array_equal(
        InitialAdapters(SHAPE, 4, kind).read(specs[0].name, whole_box(specs[0].shape)), values[specs[0].name]
    )
