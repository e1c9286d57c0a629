"""Runs that train adapters: exact resume, what they leave, what is planned and refused."""

import json
import shutil

import numpy as np
import pytest
from distributed.small_runs import completions, metrics, single, without_times
from helpers import ROOT, run_python
from safetensors.numpy import load_file, save_file

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.memory_plan import memory_plan
from mindrlhf_lite.config.roles import phases_of_run
from mindrlhf_lite.config.validate import find_problems
from mindrlhf_lite.models.peft_folder import MergedReader, PeftFolder
from mindrlhf_lite.parallel.layout import box_reader, whole_box
from mindrlhf_lite.parallel.mesh import Mesh
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.trainer.grpo import GrpoTrainer

LORA = ("--actor_config.lora.rank=4", "--actor_config.lr_schedule.lr=1e-3", "--rl_config.save_ckpt_interval=1")


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    for name, steps, extra in (
        ("whole", 2, ()),
        ("parts", 1, ("--rl_config.swap=true",)),
        ("parts", 2, ("--rl_config.swap=true", "--resume_training", "true")),
        ("merge", 2, ("--actor_config.lora.rollout=merge",)),
    ):
        result = single(data, folder / name, f"--rl_config.max_steps={steps}", *LORA, *extra)
        assert result.returncode == 0, result.stderr
    return folder


def test_resume_and_swap_are_exact(runs):
    assert without_times(metrics(runs / "parts")) == without_times(metrics(runs / "whole"))
    assert completions(runs / "parts", 2) == completions(runs / "whole", 2)
    saved = load_file(runs / "parts/checkpoints/step_2/rank_00000.safetensors")
    assert saved and all("lora_" in name for name in saved)


def test_what_a_run_leaves(data, runs):
    shape = ModelConfig.from_dir(data / "model")
    adapters = PeftFolder(runs / "whole/hf/adapter", shape)
    adapters.check_base(data / "model")
    base, merged = (load_file(folder / "model.safetensors") for folder in (data / "model", runs / "whole/hf"))
    reader = MergedReader(box_reader(base), adapters.read, adapters.shape)
    for name, values in merged.items():
        assert np.array_equal(reader.read(name, whole_box(values.shape)), values), name
        assert np.array_equal(base[name], values) == ("_proj.weight" not in name), name
    converted = run_python(
        ROOT / "tools/convert_weight.py",
        "--input_path",
        runs / "whole/checkpoints/step_2",
        "--output_path",
        runs / "hf",
    )
    assert converted.returncode == 0, converted.stderr
    assert all(
        np.array_equal(values, merged[name]) for name, values in load_file(runs / "hf/model.safetensors").items()
    )
    for name in ("adapter_config.json", "adapter_model.safetensors", "base.json"):
        assert (runs / "hf/adapter" / name).read_bytes() == (runs / "whole/hf/adapter" / name).read_bytes(), name


def test_a_merged_rollout_generates_the_same(runs):
    for name in ("whole", "merge"):
        rows = metrics(runs / name)
        assert all(row["reshard/bytes"] == row["reshard/lower_bound_bytes"] for row in rows)
        assert max(row["rollout/logprob_diff_max"] for row in rows) < 1e-4
    assert completions(runs / "merge", 2) == completions(runs / "whole", 2)


def test_an_export_whose_base_has_changed_keeps_the_adapters(data, tmp_path):
    """Nothing is merged into another model than the run began with."""
    shutil.copytree(data / "model", tmp_path / "base")
    trainer = trainer_of(tmp_path / "base", data, tmp_path / "run")
    tensors = load_file(tmp_path / "base/model.safetensors")
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"] + 1}, tmp_path / "base/model.safetensors")
    trainer.ending.finish(trainer.run_steps())
    assert (tmp_path / "run/hf/adapter/adapter_model.safetensors").is_file()
    assert not (tmp_path / "run/hf/model.safetensors").exists()
    PeftFolder(tmp_path / "run/hf/adapter", ModelConfig.from_dir(data / "model")).check_base(data / "model")


def test_tools_take_the_adapters(data, runs, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "12+34=", "completion": "46"}) + "\n")
    found = []
    for name, model in (
        ("merged", (runs / "whole/hf",)),
        ("beside", (data / "model", "--adapter", runs / "whole/hf/adapter")),
    ):
        words = ("--model", *model, "--input", tmp_path / "rows.jsonl", "--output", tmp_path / name)
        result = run_python(ROOT / "tools/score.py", *words)
        assert result.returncode == 0, result.stderr
        found.append((tmp_path / name).read_text())
    assert found[0] == found[1]


def test_a_run_goes_on_from_adapters(data, runs, tmp_path):
    adapters = f"--actor_config.lora.load={runs / 'whole/hf/adapter'}"
    result = single(data, tmp_path / "more", "--rl_config.max_steps=1", *LORA, adapters)
    assert result.returncode == 0, result.stderr
    other = single(data, tmp_path / "other", "--rl_config.max_steps=1", *LORA, adapters, "--actor_config.lora.alpha=3")
    assert other.returncode != 0 and "but the settings say" in other.stderr + other.stdout
    assert "Traceback" not in other.stderr + other.stdout


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.full)])
def test_float32_adapters_learn_beside_a_rounded_base(data, tmp_path, dtype):
    """A rate whose steps a rounded number of the size of A would not see."""
    rounded = {"actor_config.compute_dtype": dtype, "rl_config.entropy_coeff": 0.1}
    rounded["actor_config.lr_schedule.lr"] = 1e-5
    trainer = trainer_of(data / "model", data, tmp_path, **rounded, **{"rl_config.max_steps": 2})
    before = {each.name: each.asnumpy().copy() for each in trainer.run.roles.actor.model.trained}
    trainer.train()
    rows = metrics(tmp_path)
    assert len(rows) == 2 and all(
        row["policy/grad_norm"] > 0 and row["rollout/logprob_diff_max"] < 0.05 for row in rows
    )
    written = load_file(tmp_path / "hf/adapter/adapter_model.safetensors")
    for name, values in before.items():
        after = next(each for key, each in written.items() if key.endswith(name))
        assert after.dtype == np.float32 and np.abs(after - values).max() < 5e-5
        assert (after != values).mean() > 0.9, name


def trainer_of(base, data, output, **more):
    values = {
        "actor_config.load": str(base),
        "actor_config.lora.rank": 4,
        "rl_config.dataset_file": str(data / "train.mindrecord"),
        "rl_config.output_dir": str(output),
        "rl_config.max_steps": 1,
        "rl_config.seq_length": 32,
        "rl_config.chunk_size": 2,
        "rl_config.num_generations": 2,
        "rl_config.beta": 0.0,
        "reward_config.verifier_function": ["format_reward"],
        "reward_config.verifier_weight": [1.0],
        "generate_config.max_num_seqs": 4,
        "generate_config.max_prompt_length": 8,
        "generate_config.sampling_config.max_tokens": 8,
        "monitor_config.plots": False,
        "monitor_config.progress_bar": False,
        **more,
    }
    return GrpoTrainer(build_config(values), Mesh())


def config_of(data, **more):
    return build_config({"actor_config.load": str(data / "model"), "actor_config.lora.rank": 4, **more})


def test_one_copy_of_the_base_is_planned(data):
    shape = ModelConfig.from_dir(data / "model")
    whole = memory_plan(build_config({"actor_config.load": str(data / "model")}), shape, 1).groups
    shared = memory_plan(config_of(data), shape, 1).groups
    assert shared["base"] == whole["actor"] and not shared["reference"] and not shared["rollout_base"]
    assert shared["actor"] == shared["gradients"] == shared["rollout"] == shared["optimizer"] / 2 < whole["actor"] / 10
    apart = memory_plan(config_of(data, **{"actor_config.parallel_config.model_parallel": 2}), shape, 2).groups
    assert apart["rollout_base"] == apart["reference"] == whole["actor"]  # they lie otherwise
    phases = phases_of_run(config_of(data), 0, {"reference", "rollout"})
    assert all("base" in phases[name].needs for name in ("generate", "reference", "policy", "update"))
    assert not any("base" in phases[name].resident for name in ("reshard", "save"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_modules": ["q_proj", "qproj"]}, "'qproj': it has no adapters here; down_proj, gate_proj"),
        ({"target_modules": ["lm_head"]}, "'lm_head'"),
        ({"modules_to_save": ["lm_head"]}, "no module is trained whole"),
        ({"dropout": 0.1}, "must be 0"),
        ({"load": "there"}, ""),
        ({"rank": -1}, "must not be negative"),
    ],
)
def test_what_is_refused(data, settings, words):
    config = config_of(data, **{f"actor_config.lora.{key}": value for key, value in settings.items()})
    problems = [problem for problem in find_problems(config, 1) if "actor_config.lora" in problem]
    assert len(problems) == 1 and words in problems[0]


def test_what_does_not_go_with_adapters(data):
    for settings, words in (
        ({"actor_config.frozen": ["model.norm.weight"]}, "actor_config.frozen: beside adapters"),
        ({"ref_config.sync_ref_model": True}, "does not move"),
        ({"generate_config.use_vllm": 1, "actor_config.lora.rollout": "separate"}, "vLLM takes merged weights"),
        ({"actor_config.lora.rank": 0, "actor_config.lora.load": "there"}, "set actor_config.lora.rank"),
        ({"actor_config.lora.rank": 0, "actor_config.lora.alpha": 32.0}, "there are no adapters"),
    ):
        assert [problem for problem in find_problems(config_of(data, **settings), 1) if words in problem], words
