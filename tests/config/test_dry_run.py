"""Mistakes that a command finds before anything starts, and the plan that it prints."""

import json
import shutil
import sys

import pytest
from helpers import ROOT, make_sums, run, run_python

from mindrlhf_lite.config.load import ConfigError
from mindrlhf_lite.launch.command_line import parse_command_line

MAIN = "examples/qwen_grpo/main.py"


def test_all_problems_are_reported_together_and_before_any_group_starts(values, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("rl_config:\n  num_generatoins: 8\n  beta: high\n  epsilon_low: 2\n")
    result = run_python(MAIN, "--config", path, "--rl_config.advantage=x")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert all(
        part in result.stderr
        for part in (
            "num_generatoins",
            "beta='high'",
            "advantage='x'",
            "epsilon_low=2.0",
            "dataset_file=''",
            "actor_config.load=''",
        )
    )
    path.write_text("rl_config:\n  num_generations: 1\n  epsilon_low: 2\n")
    result = run(
        [sys.executable, ROOT / MAIN, "--config", path], MS_WORKER_NUM="3", MS_ROLE="MS_WORKER"
    )  # no scheduler: a group would hang
    assert result.returncode == 2
    assert all(
        part in result.stderr
        for part in (
            "num_generations=1",
            "epsilon_low=2",
            "chunk_size=8: must be a multiple of the 3 data-parallel ranks",
            "actor_config.load=''",
        )
    )


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"DEVICE": "Ascend", "MSADAPTER_PATH": "", "MINDFORMERS_PATH": "", "ASCEND_HOME_PATH": "/nowhere"},
            "no such folder: MSADAPTER_PATH='' MINDFORMERS_PATH='' ASCEND_HOME_PATH='/nowhere'",
        ),
        (
            {"DEVICE": "Ascend", "MSADAPTER_PATH": "/tmp", "MINDFORMERS_PATH": "/nowhere", "ASCEND_HOME_PATH": "/tmp"},
            "no such folder: MINDFORMERS_PATH='/nowhere';",
        ),
        (
            {
                "DEVICE": "Ascend",
                "MSADAPTER_PATH": "/tmp",
                "MINDFORMERS_PATH": "/tmp",
                "ASCEND_HOME_PATH": "/tmp",
                "vLLM_MODEL_BACKEND": "MindFormers",
            },
            "vLLM_MODEL_BACKEND=MindFormers",
        ),
        ({"DEVICE": "NPU"}, "DEVICE=NPU: CPU or Ascend"),
        ({"MODEL": "/tmp"}, "MODEL needs DATASET"),
        ({"QWEN_MODEL_PATH": "/tmp"}, "MODEL needs DATASET"),
        ({"DATASET_FILE": "/tmp/a.mindrecord"}, "DATASET needs MODEL"),
    ],
)
def test_run_grpo_vllm_names_what_is_missing_before_anything_starts(variables, message):
    result = run(["bash", ROOT / "examples/qwen_grpo/run_grpo_vllm.sh"], **variables)
    assert result.returncode == 2 and message in result.stderr and not result.stdout, result.stderr + result.stdout


@pytest.fixture(scope="module")
def sums(tmp_path_factory, quickstart_model):
    return make_sums(quickstart_model, tmp_path_factory.mktemp("sums") / "train.mindrecord", 40)


def dry_run(values, tmp_path, *arguments, **environment):
    settings = [f"--{key}={json.dumps(value) if isinstance(value, list) else value}" for key, value in values.items()]
    (tmp_path / "c.yaml").write_text("rl_config: {seed: 0}\n")
    return run_python(
        *(MAIN, "--config", tmp_path / "c.yaml", *settings, *arguments, "--dry_run"),
        **environment,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rl_config.dataset_file": "ROWS"}, "a MindRecord file is needed; convert it"),
        ({"rl_config.dataset_file": "EMPTY"}, "index train.mindrecord.db is missing"),
        ({"rl_config.output_dir": "ROWS"}, "it is a file; give another folder"),
        ({"rl_config.output_dir": "ROWS/below"}, "is a file; give another folder"),
        ({"rl_config.output_dir": "/proc/nowhere"}, "rl_config.output_dir='/proc/nowhere': "),
        ({"rl_config.chunk_size": 64}, "40 prompts, but a step takes chunk_size * num_rollouts = 64"),
        (
            {"generate_config.max_prompt_length": 4},
            "its longest prompt has 6 tokens, over generate_config.max_prompt_length=4",
        ),
        ({"rl_config.tokenizer_dir": "OTHER"}, "whose tokens differ"),
    ],
)
def test_mistakes_in_data_are_found_before_anything_starts(values, sums, tmp_path, quickstart_model, change, message):
    (tmp_path / "rows.jsonl").write_text('{"question": "x"}\n')
    other = tmp_path / "other"
    shutil.copytree(quickstart_model, other)
    vocabulary = json.loads((other / "vocab.json").read_text())
    first, second = list(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "vocab.json").write_text(json.dumps(vocabulary))
    places = {
        "ROWS": tmp_path / "rows.jsonl",
        "ROWS/below": tmp_path / "rows.jsonl/below",
        "EMPTY": tmp_path / "train.mindrecord",
        "OTHER": other,
    }
    change = {key: places.get(value, value) for key, value in change.items()}
    result = dry_run({**values, "rl_config.dataset_file": sums, **change}, tmp_path)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, (
        result.stderr + result.stdout
    )


def test_a_plan_that_does_not_fit_is_said(values, sums, tmp_path):
    values = {**values, "rl_config.dataset_file": sums}
    fits = dry_run(values, tmp_path, "--device_memory_gb=2")
    assert fits.returncode == 0 and "fits" in fits.stdout and "warning" not in fits.stdout, fits.stdout + fits.stderr
    too_large = dry_run(values, tmp_path, "--device_memory_gb=0.01")
    assert too_large.returncode == 1 and "DOES NOT FIT in 0.01 GiB" in too_large.stdout
    many = {"generate_config.max_num_seqs": 10_000_000, "rl_config.eval_dataset_file": sums}  # held-out prompts fill it
    host = dry_run({**values, **many}, tmp_path)
    assert host.returncode == 0 and "warning: 1 rank(s) on this host need about" in host.stdout, host.stdout


def test_ranks_that_a_model_file_has_no_strategy_for_are_named(tmp_path):
    arguments = (
        "--config",
        ROOT / "examples/qwen_grpo/grpo_config.yaml",
        "--model_config",
        ROOT / "model_configs/qwen2_5_7b.yaml",
    )
    plan = run_python(MAIN, *arguments, "--dry_run", "--devices", 4)
    assert plan.returncode == 0 and "has strategies for 8, 16, 64 devices, none for 4" in plan.stdout, (
        plan.stdout + plan.stderr
    )
    saved = run_python(MAIN, *arguments, "--only_save_strategy", "--devices", 8, f"--rl_config.output_dir={tmp_path}")
    assert saved.returncode == 0 and json.loads((tmp_path / "strategy.json").read_text())["model_parallel"] > 1, (
        saved.stderr
    )


def test_ascend_on_a_host_without_one(values, sums, tmp_path):
    settings = [f"--{key}={value}" for key, value in values.items() if not isinstance(value, list)]
    (tmp_path / "c.yaml").write_text("rl_config: {seed: 0}\n")
    result = run_python(
        MAIN,
        "--config",
        tmp_path / "c.yaml",
        *settings,
        f"--rl_config.dataset_file={sums}",
        "--context.device_target=Ascend",
    )
    assert (
        result.returncode == 2
        and "this host has no Ascend device" in result.stderr
        and len(result.stderr.splitlines()) < 4
    ), result.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--dry-run"], "--dry_run"),
        (["--dryrun", "--devices", "2"], "--dry_run"),
        (["--verifer_function=x"], "--verifier_function"),
        (["--rl_config.max_step=3"], "rl_config.max_steps"),
    ],
)
def test_a_flag_that_is_nearly_one_is_known(tmp_path, typed, meant):
    (tmp_path / "c.yaml").write_text("rl_config: {}\n")
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        parse_command_line(["--config", str(tmp_path / "c.yaml"), *typed])
