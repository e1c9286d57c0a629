"""Files of MindRLHF and MindSpeed-RL in commands: plans, mistakes, tools/migrate_config.py."""

import re
import shutil

import pytest
import yaml
from config.their_files import MAIN, MINDRLHF_FILE, MINDSPEED_FILE, MODEL_FILE, ours, written
from helpers import ROOT, run_python

from mindrlhf_lite.config.aliases.migrate import shortest_yaml
from mindrlhf_lite.config.load import build_config, read_yaml


def test_a_problem_names_the_files_own_key(tmp_path):
    path = written(tmp_path, MINDSPEED_FILE.replace("global_batch_size: 16", "global_batch_size: -8"))
    result = run_python(MAIN, "--config", path, "--dry_run", "--devices", 16)
    assert (
        "rl_config.chunk_size=-8: must be positive (in the file: megatron_training.global_batch_size" in result.stderr
    )


def test_a_plan_for_other_devices_is_proposed(tmp_path):
    result = run_python(MAIN, "--config", written(tmp_path, MINDSPEED_FILE), "--dry_run")
    wanted = re.search(r"for a plan of these degrees: --dry_run --devices (\d+)", result.stderr)
    assert wanted, result.stderr
    again = run_python(MAIN, "--config", written(tmp_path, MINDSPEED_FILE), "--dry_run", "--devices", wanted[1])
    assert "rank(s) are running" not in again.stderr, again.stderr


def test_model_files_are_found_from_the_files_own_folder(tmp_path, monkeypatch):
    model = tmp_path / "theirs/model_configs/small.yaml"
    model.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / "model_configs/qwen2_5_0_5b.yaml", model)
    text = "actor_config: {model_config: ./model_configs/small.yaml}\n"
    for folder in ("theirs", "theirs/configs/deep"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        path = written(tmp_path / folder, text)
        result = run_python(MAIN, "--config", path, "--dry_run")
        assert result.returncode == 0 and f"{model} is taken" in result.stdout, result.stdout + result.stderr


def test_one_problem_hides_no_other(tmp_path):
    """A model file that is not there, a key that has no counterpart, and a number out of range."""
    text = MINDRLHF_FILE.replace("mode: 0", "mode: 1").replace("num_generations: 4", "num_generations: 1")
    path = written(tmp_path, text)
    result = run_python(
        MAIN, "--config", path, "--dry_run", "--devices", 8, "--model_config", tmp_path / "nowhere.yaml"
    )
    for wanted in ("nowhere.yaml: no such file", "context.mode=1", "num_generations=1: a group needs"):
        assert wanted in result.stderr, result.stderr


def test_a_missing_model_file_is_named(tmp_path):
    path = written(tmp_path, MINDSPEED_FILE)
    assert any("neither model/small.yaml nor small.yaml" in line for line in ours(path)[1].missing)
    result = run_python(MAIN, "--config", path, "--dry_run", "--devices", 16)
    assert result.returncode == 2 and "give --model_config FILE" in result.stderr, result.stderr
    assert "1 problem(s)" in result.stderr


@pytest.mark.parametrize("text", [MINDRLHF_FILE.replace("offset: [-1, 1]", "offset: 0"), MINDSPEED_FILE])
def test_the_shortest_yaml_means_the_same(tmp_path, text):
    written(tmp_path, MODEL_FILE, "small.yaml")
    path, output = written(tmp_path, text), tmp_path / "ours.yaml"
    config, translation = ours(path)
    result = run_python("tools/migrate_config.py", path, "--output", output)
    assert result.returncode == 0 and "changed its name or number:" in result.stderr, result.stderr
    assert build_config(read_yaml(str(output))) == config
    given, defaults = read_yaml(str(output)), build_config({})
    for key in given:  # nothing is written that need not be
        assert build_config({key: given[key]}) != defaults, key
    again = run_python("tools/migrate_config.py", output, "--output", tmp_path / "again.yaml")
    assert again.returncode == 0 and (tmp_path / "again.yaml").read_text() == output.read_text()
    assert yaml.safe_load(shortest_yaml(translation.values)) == yaml.safe_load(output.read_text())


def test_a_configuration_of_ours_comes_out_as_it_is(tmp_path):
    path = ROOT / "examples/qwen_grpo/grpo_config.yaml"
    result = run_python("tools/migrate_config.py", path)
    assert result.stdout == path.read_text() and "nothing to do" in result.stderr


def test_unknown_keys_stay_errors_in_their_files(tmp_path):
    path = written(tmp_path, MINDRLHF_FILE.replace("mode: 0", "made_up: 1") + "    other_config: {x: 1}\n")
    result = run_python(MAIN, "--config", path, "--dry_run")
    assert result.returncode == 2 and "context.made_up=1: unknown key" in result.stderr, result.stderr
    assert "other_config.x=1: unknown key" in result.stderr and "Traceback" not in result.stderr


def test_mindrlhfs_file_is_planned_for_eight_devices(shared, tmp_path):
    """As it is, but for the paths of its model files."""
    folder = shared / "configs/mindrlhf"
    text = (folder / "grpo_config.yaml").read_text()
    path = tmp_path / "grpo_config.yaml"
    path.write_text(text.replace("./model_configs/qwen_grpo/qwen2_5_7b/", f"{folder}/"))
    result = run_python(MAIN, "--config", path, "--dry_run", "--devices", 8, "--device_memory_gb", 58)
    assert result.returncode == 0, result.stderr + result.stdout
    for wanted in (
        "7,615,616,512 parameters; actor bfloat16 stored as float32",
        "actor dp=1,tp=4,pp=2, reference dp=2,tp=4,pp=1, rollout dp=2,tp=4,pp=1",
        "8 prompts x 8 completions = 64 sequences, 32 update(s)",
    ):
        assert wanted in result.stdout, (wanted, result.stdout)
    path.write_text(re.sub(r'model_config: "[^"]*"', 'model_config: ""', text))
    model = ROOT / "model_configs/qwen2_5_7b.yaml"
    result = run_python(MAIN, "--config", path, "--model_config", model, "--dry_run", "--devices", 8)
    assert result.returncode == 0 and "7,615,616,512 parameters" in result.stdout, result.stderr


def test_mindspeed_rls_file_is_planned_for_sixteen_devices(shared):
    path = shared / "configs/mindspeed_rl/grpo_qwen25_7b_A3.yaml"
    result = run_python(MAIN, "--config", path, "--dry_run", "--devices", 16, "--device_memory_gb", 64)
    assert result.returncode == 0, result.stderr + result.stdout
    assert (
        "actor dp=4,tp=2,pp=2" in result.stdout
        and "32 prompts x 8 completions = 256 sequences, 1 update(s)" in result.stdout
    )
    data = run_python("tools/migrate_config.py", shared / "configs/mindspeed_rl/deepscaler.yaml")
    assert data.returncode == 2 and "tools/rlhf_data.py --config" in data.stderr
