"""Files that are made to mislead: none is taken for a model, none takes the memory or the day."""

import hashlib
import json
import sqlite3
from contextlib import closing

import numpy as np
import pytest
import yaml
from helpers import TINY, random_weights

from mindrlhf_lite.checkpoint.open_checkpoint import open_checkpoint
from mindrlhf_lite.checkpoint.store import Checkpoint, CheckpointStore
from mindrlhf_lite.config.load import ConfigError, collect, parse_overrides, read_yaml
from mindrlhf_lite.config.model_file import read_model_file
from mindrlhf_lite.data.records import read_file
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.strict_yaml import load_yaml
from mindrlhf_lite.models.hf_weights import load_weights, save_hf_model
from mindrlhf_lite.models.mindformers import mindformers_settings
from mindrlhf_lite.models.safetensors_format import read_header
from mindrlhf_lite.shapes.model_config import ModelConfig


def write_safetensors(path, header, data=b"\0" * 64):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(first, last, shape=(4,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": entry(0, 16), "b": entry(8, 24)}, "b overlaps a"),
        ({"a": entry(-16, 0)}, "a begins or ends before the data"),
        ({"a": entry(16, 0)}, "-16 bytes of F32"),
        ({"a": entry(0, 64)}, "64 bytes of F32"),
        ({"a": entry(0, 16, (-2, -2))}, "shape"),
        ({"a": entry(0, 16, (4.0,))}, "shape"),
        ({"a": entry(64, 80)}, "cut short"),
        ({"a": entry(0.0, 16.0)}, "data_offsets"),
        ({"a": entry(0, 1e400)}, "data_offsets"),
        ({"a": {**entry(0, 16), "more": 1}}, "unexpected keyword"),
        ({"a": [1]}, "header"),
    ],
)
def test_offsets_that_do_not_lie_one_behind_another(tmp_path, header, said):
    with pytest.raises(UserError, match=said):
        read_header(write_safetensors(tmp_path / "model.safetensors", header))


def test_tensors_in_any_order_and_empty_ones_are_fine(tmp_path):
    header = {"b": entry(16, 32), "none": entry(16, 16, (0, 4)), "a": entry(0, 16), "__metadata__": {"format": "pt"}}
    assert set(read_header(write_safetensors(tmp_path / "model.safetensors", header))) == {"a", "b", "none"}


@pytest.mark.parametrize(
    "name", ["../elsewhere/model.safetensors", "/tmp/model.safetensors", "deep/model.safetensors", ".."]
)
def test_an_index_names_files_of_its_folder_only(tmp_path, name):
    save_hf_model(tmp_path / "model", TINY, random_weights(TINY), 1, 0, 20_000)
    index = tmp_path / "model/model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"] = dict.fromkeys(values["weight_map"], name)
    index.write_text(json.dumps(values))
    with pytest.raises(UserError, match="is no file of its folder"):
        load_weights(tmp_path / "model", TINY)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 100_000_000},
        {"vocab_size": 1 << 40},
        {"head_dim": 0},
        {"head_dim": -2},
        {"rms_norm_eps": float("nan")},
        {"rope_theta": float("inf")},
        {"hidden_size": float("inf")},
        {"num_attention_heads": 10**30},
        {"model_type": ["qwen2"]},
        {"num_key_value_heads": 0},
        {"tie_word_embeddings": "x"},
        {"tie_word_embeddings": 1},
        {"eos_token_id": {"a": 1}},
        {"eos_token_id": [1e30]},
        {"pad_token_id": [1]},
        {"bos_token_id": "1"},
    ],
)
def test_shapes_that_no_model_has(change):
    with pytest.raises(
        UserError, match=next(iter(change)) if change.get("hidden_size") is None else "a number is none"
    ):
        ModelConfig.from_hf({**TINY.to_hf(1, 0), **change})


def test_aliases_that_multiply_end_in_words(tmp_path):
    """Nine levels of ten: 300 bytes that stand for a billion values; and a mapping that holds itself."""
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )
    for text in (laughs, "rl_config: &me\n  itself: *me\n"):
        with pytest.raises(yaml.YAMLError, match="aliases repeat values"):
            load_yaml(text)
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(ConfigError, match="aliases repeat values"):
            read_yaml(str(tmp_path / "c.yaml"))
    assert load_yaml("a: &one [1, 2]\nb: *one\nc: {<<: {d: *one}}\n")["c"] == {"d": [1, 2]}
    assert np.isnan(load_yaml("a: .nan")["a"])


def test_pairs_do_not_multiply_in_place_of_aliases():
    levels = "".join(f"a{n}: &a{n} !!pairs [{', '.join([f'x: *a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    with pytest.raises(yaml.YAMLError, match="!!pairs is not supported"):
        load_yaml("a0: &a0 !!pairs [x: 1, x: 2]\n" + levels + "rl_config: {max_steps: *a7}")


@pytest.mark.parametrize("value", ["x" * 10**6, ["x" * 10**6] * 10_000, dict.fromkeys(range(10_000), "x")])
def test_values_are_shortened_in_messages(value):
    (problem,) = collect({"rl_config.max_steps": value})[1]
    assert len(problem) < 400 and "..." in problem and "a whole number is needed" in problem


def test_merged_mappings_do_not_multiply():
    levels = "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12))
    assert load_yaml("a0: &a0 {x: 1, y: 2}\n" + levels)["a11"] == {"x": 1, "y": 2}
    assert load_yaml("x: &x {a: 1, b: 3}\ny: {<<: *x, a: 2}")["y"] == {"a": 2, "b": 3}


@pytest.mark.parametrize("merge", ["*m{0}", "[*m{0}]"])
def test_a_long_chain_of_merges_is_refused_early(merge):
    chain = "".join(f"m{n}: &m{n} {{<<: {merge.format(n - 1)}, k{n}: 1}}\n" for n in range(1, 1000))
    with pytest.raises(yaml.YAMLError, match=r"more than 100,000 keys") as caught:
        load_yaml("m0: &m0 {}\n" + chain)
    assert caught.value.problem_mark.line < 500  # not after the half million keys of all


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: " + "[" * 30_000 + "]" * 30_000, "nested too deeply"),
        ("a: " + "9" * 6000, "a number of 6,000 characters"),
        ("a: 0x" + "f" * 6000, "a number of 6,002 characters"),
        ("a: " + "1:" * 40_000 + "1", "a number of 80,001 characters"),
        ("[a]: 1", "a key is a list or a mapping"),
        ("{a: 1}: 1", "a key is a list or a mapping"),
        ("&a [*a]: 1", "recursive"),
        ("a: !!map [1]", "a mapping is needed"),
        ("a: !!int ''", "a value cannot be read"),
        ("a: !!float ''", "a value cannot be read"),
        ("a: !!bool maybe", "a value cannot be read"),
        ("a: !!timestamp x", "a value cannot be read"),
        ("a: !!set [1]", "the tag !!set is not supported"),
        ("a: !!set {x, y}", "the tag !!set is not supported"),
        ("a: !!omap [x: 1]", "the tag !!omap is not supported"),
        ("a: !!pairs [x: 1]", "the tag !!pairs is not supported"),
        ("a: 2020-99-99", "a value cannot be read"),
        ('a: "\\U00110000"', "a value cannot be read"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ],
)
def test_yaml_that_is_none_is_said_to_be_so(tmp_path, text, said):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_yaml(str(tmp_path / "c.yaml"))
    with pytest.raises(ConfigError, match="not a valid value"):
        parse_overrides([f"rl_config.seed={text.removeprefix('a: ')}"])


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b"])
def test_what_no_path_may_hold_is_refused_with_the_settings(path):
    for key, value in (("rl_config.output_dir", path), ("reward_config.verifier_function", [path])):
        assert any(key in line and "holds" in line for line in collect({key: value})[1])


def test_many_unknown_keys_take_no_minute():
    _, problems = collect({f"rl_config.unknown_{number}": 1 for number in range(5000)})
    assert len(problems) == 51 and "4,950 more unknown keys" in problems[-1]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ('{"a": ' * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "too many digits"),
        ('{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "a": {}}', "a key stands twice"),
        ("[]", "header"),
    ],
)
def test_headers_that_are_none(tmp_path, header, said):
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\0" * 64)
    with pytest.raises(UserError, match=said):
        read_header(tmp_path / "a.safetensors")


@pytest.mark.parametrize("definition", ["VIEW SHARD_NAME AS SELECT 'a' AS NAME", "TABLE t(a, b AS (a + 1))"])
def test_an_index_of_data_holds_tables_only(tmp_path, definition):
    """A view may compute for ever; an index is a database that anybody can write, sums included."""
    (tmp_path / "a.mindrecord").write_bytes(b"x")
    with closing(sqlite3.connect(tmp_path / "a.mindrecord.db")) as index:
        index.execute(f"CREATE {definition}")
        index.commit()
    with pytest.raises(UserError, match="is more than a table"):
        read_file(tmp_path / "a.mindrecord")


@pytest.mark.parametrize("state", ["[]", "{" + '"a": {' * 500 + "}" * 501, '{"step": 1, "step": 2}', "NaN"])
def test_a_state_whose_sums_fit_is_looked_at_all_the_same(tmp_path, state):
    store = CheckpointStore(tmp_path, 2)
    folder = store.save(Checkpoint(1, {}, {"a": np.zeros(3, np.float32)}))
    (folder / "state.json").write_text(state)
    manifest = json.loads((folder / "manifest.json").read_text())
    sums = {"bytes": len(state), "sha256": hashlib.sha256(state.encode()).hexdigest()}
    manifest["files"]["state.json"] = sums
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found, damaged = store.load_newest()
    assert found is None and "state.json" in damaged[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stage_layers": None}, "stage_layers=None"),
        ({"stage_layers": [1.5]}, "stage_layers"),
        ({"stage_layers": [7, 7], "pipeline_stage": 2}, "does not fit"),
        ({"data_parallel": 1 << 40}, "ranks; at most"),
        ({"model_parallel": True}, "positive whole numbers"),
        ({"vocab_emb_dp": "no"}, "true or false"),
    ],
)
def test_strategies_that_no_run_had(tmp_path, change, said):
    save_hf_model(tmp_path, TINY, random_weights(TINY), 1, 0)
    (tmp_path / "strategy.json").write_text(json.dumps(change))
    with pytest.raises(UserError, match=said):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("state", ["{}", '{"model": 1, "strategy": {}}', '{"model": {}, "strategy": [1]}'])
def test_states_without_a_model(tmp_path, state):
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(UserError, match="an object is needed"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("strategies: [1]", "settings by number of devices"),
        ("strategies: {two: {}}", "settings by number of devices"),
        ("strategies: {2: 0.5}", "settings by number of devices"),
        ("model: {model_config: {type: LlamaConfig}}\npretrained_model_dir: [x]", "a Hugging Face folder is needed"),
        ("model: {model_config: {type: LlamaConfig}}\npretrained_model_dir: ME", "a Hugging Face folder is needed"),
        ("model: {model_config: TINY}\nparallel_config: {data_parallel: {}}", "parallel_config.data_parallel={}"),
        ("model: {model_config: TINY}\nrecompute_config: [1]", "recompute_config=\\[1\\]: a mapping"),
        ("model: {model_config: {eos_token_id: [x], type: LlamaConfig, hidden_size: 8}}", "model_config: eos_token_id"),
        ("a: [", "m.yaml:1: not valid YAML"),
        ("a: {ffn_hidden_size: 8, rotary_base: 2020-01-01}", "m.yaml: as a config.json: missing"),
    ],
)
def test_model_files_that_are_none(tmp_path, more, said):
    path, shape = tmp_path / "m.yaml", json.dumps(TINY.to_hf(1, 0))
    text = more.replace("ME", str(path)).replace("TINY", json.dumps(mindformers_settings(TINY)))
    path.write_text(text if text.startswith(("model", "a")) else f"model: {shape}\n{text}")
    with pytest.raises(UserError, match=said):
        read_model_file(str(path))


def test_types_that_no_shape_has():
    with pytest.raises(UserError, match=r"model_type=\[1\] is not supported"):
        ModelConfig.from_hf({"model_type": [1]})
