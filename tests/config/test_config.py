"""The configuration: every mistake is named, with key, value and fix, all at once, before anything starts."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, make_sums, run, run_python

from mindrlhf_lite.config.load import FLAGS, ConfigError, build_config, known_keys, parse_overrides, read_yaml
from mindrlhf_lite.config.validate import find_problems
from mindrlhf_lite.launch.command_line import parse_command_line

MAIN = "examples/qwen_grpo/main.py"


@pytest.fixture
def values(quickstart_model, tmp_path):
    (tmp_path / "train.mindrecord").write_bytes(b"")
    return {
        **read_yaml(ROOT / "examples/quickstart/grpo_config.yaml"),
        "rl_config.eval_interval": 0,
        "actor_config.load": str(quickstart_model),
        "rl_config.dataset_file": str(tmp_path / "train.mindrecord"),
    }


def problems(values, world_size=2, **changes):
    return find_problems(
        build_config({**values, **{key.replace("__", "."): value for key, value in changes.items()}}), world_size
    )


def test_the_quickstart_is_valid(values):
    assert problems(values, 1) == problems(values, 2) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rl_config.num_generatoins", 8, "did you mean rl_config.num_generations?"),
        ("num_generations", 8, "did you mean rl_config.num_generations?"),
        ("actor_config.recompute_config.recompute", "maybe", "true or false is needed"),
        ("rl_config.beta", "high", "a number is needed, not str"),
        ("rl_config.num_generations", 2.5, "a whole number is needed, not float"),
        ("rl_config.num_generations", True, "a whole number is needed, not bool"),
        ("rl_config.tensorboard", "maybe", "true or false is needed"),
        ("rl_config.advantage", "grp", "did you mean grpo?"),
        ("reward_config.verifier_weight", ["a"], "a number is needed"),
    ],
)
def test_unknown_keys_and_wrong_types(values, key, value, message):
    with pytest.raises(ConfigError) as error:
        build_config({**values, key: value})
    assert len(error.value.problems) == 1
    assert f"{key}={value!r}" in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rl_config.num_generations": 1}, "at least 2 completions"),
        (
            {"rl_config.chunk_size": 3},
            "rl_config.chunk_size=3: must be a multiple of the 2 data-parallel ranks of the rollout",
        ),
        (
            {"rl_config.batch_size": 24},
            "rl_config.batch_size=24: must be a multiple of the actor's 2 data-parallel ranks and divide",
        ),
        ({"rl_config.batch_size": 1}, "must be a multiple of the actor's 2 data-parallel ranks and divide"),
        ({"rl_config.seq_length": 40, "rl_config.length_buckets": []}, "8 + 40 = 48"),
        ({"rl_config.length_buckets": [24, 12]}, "must be positive, rise, and end with seq_length=48"),
        ({"generate_config.parallel_config.pipeline_stage": 2}, "rollouts run on one stage"),
        (
            {"actor_config.parallel_config.model_parallel": 2, "actor_config.parallel_config.data_parallel": 2},
            "2 x model_parallel 2 x pipeline_stage 1 = 4, but 2",
        ),
        (
            {"ref_config.parallel_config.pipeline_stage": 2, "ref_config.parallel_config.stage_layers": [1, 9]},
            "stage_layers",
        ),
        ({"rl_config.reshard_mem_opt_level": 1}, "set rl_config.swap to true"),
        ({"actor_config.optimizer.opt_offload": True}, "set rl_config.swap to true"),
        ({"rl_config.reshard_mem_opt_level": 2}, "must be 0 or 1"),
        ({"actor_config.model_config": str(ROOT / "model_configs/qwen2_5_7b.yaml")}, "hidden_size is 3584, but"),
        ({"rl_config.model_name": "qwen3"}, "the model of actor_config.load is qwen2 (Qwen2, Qwen2.5)"),
        (
            {"actor_config.parallel_config.data_parallel": 4},
            "4 x model_parallel 1 x pipeline_stage 1 = 4, but 2 rank(s)",
        ),
        ({"actor_config.parallel_config.micro_batch_num": 500}, "more than the 128 completions"),
        ({"reward_config.verifier_weight": [1.0]}, "2 verifiers need as many weights"),
        ({"reward_config.verifier_function": ["accuracy", "format_reward"]}, "verifier 'accuracy' is unknown"),
        ({"actor_config.load": "/nowhere"}, "no config.json there"),
        ({"actor_config.load": ""}, "--actor_checkpoint_path"),
        ({"rl_config.dataset_file": "/nowhere/a"}, "tools/rlhf_data.py"),
        ({"generate_config.use_vllm": 2}, "must be 0 (native engine) or 1 (vLLM)"),
        (
            {"generate_config.use_vllm": 1, "generate_config.gpu_memory_utilization": 2e9},
            "give generate_config.kv_cache_gb",
        ),
        ({"generate_config.load": "/elsewhere"}, "rollouts use the actor's weights"),
        ({"generate_config.sampling_config.top_p": 0.0}, "sampling_config.top_p=0.0: must lie in (0, 1]"),
        ({"generate_config.sampling_config.temperature": 0}, "greedy completions of a group are all equal"),
        ({"actor_config.optimizer.adam_beta1": 1.0}, "adam_beta1=1.0: must lie in [0, 1)"),
        ({"actor_config.lr_schedule.min_lr": 1.0}, "must not exceed lr"),
        ({"rl_config.beta": -0.1}, "rl_config.beta=-0.1: must not be negative"),
        ({"monitor_config.health.max_truncated": 1.5}, "health.max_truncated=1.5: must lie in [0, 1]"),
        ({"monitor_config.health.max_weight": -1.0}, "health.max_weight=-1.0: must not be negative"),
        ({"monitor_config.health.patience": 0}, "health.patience=0: must be positive"),
        (
            {"reward_config.verifier_weight": [1.0, 1e19]},
            "verifier_weight=[1.0, 1e+19]: must be numbers of at most 1e+18",
        ),
        ({"rl_config.epsilon_low": 1.5}, "rl_config.epsilon_low=1.5"),
        ({"rl_config.seq_length": 100000, "rl_config.length_buckets": []}, "max_position_embeddings=512"),
    ],
)
def test_impossible_combinations(values, change, message):
    found = find_problems(build_config({**values, **change}), 2)
    assert len([line for line in found if message in line]) == 1, found


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


def test_broken_yaml_names_file_and_line(tmp_path):
    (tmp_path / "a.yaml").write_text("rl_config:\n  beta: [1\nx: 2\n")
    with pytest.raises(ConfigError, match=r"a\.yaml:3: not valid YAML"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "b.yaml")


def test_command_line_beats_yaml_and_short_flags_work(values, tmp_path):
    path = tmp_path / "c.yaml"
    sections: dict = {}
    for key, value in values.items():
        part = sections
        *names, last = key.split(".")
        for name in names:
            part = part.setdefault(name, {})
        part[last] = value
    path.write_text(yaml.safe_dump(sections))
    arguments = [
        "--config",
        str(path),
        "--verifier_function",
        "accuracy_reward,format_reward",
        "--verifier_weight",
        "1.0,0.5",
        "--tensorboard",
        "true",
    ]
    command = parse_command_line(
        [*arguments, "--resume_training", "--rl_config.beta=1e-3", "rl_config.seed=7", "--dry_run"]
    )
    config = command.config
    assert config.reward_config.verifier_function == [
        "accuracy_reward",
        "format_reward",
    ] and config.reward_config.verifier_weight == [1.0, 0.5]
    assert config.rl_config.tensorboard and config.rl_config.resume_training and command.is_dry_run
    assert config.rl_config.beta == 1e-3 and config.rl_config.seed == 7 and config.rl_config.num_generations == 8


def test_overrides_need_values():
    with pytest.raises(ConfigError, match="a value is missing"):
        parse_overrides(["--rl_config.seed"])


def test_every_key_is_documented_and_the_document_is_current():
    """docs/config.md is generated: python tools/document_config.py"""
    result = run_python("tools/document_config.py", "--check")
    assert result.returncode == 0, result.stdout + result.stderr
    assert all(entry.metadata["facts"].help for entry in known_keys().values())
    assert set(FLAGS.values()) <= set(known_keys())


def test_every_setting_is_read_somewhere():
    source = "\n".join(
        path.read_text()
        for path in Path(ROOT / "mindrlhf_lite").rglob("*.py")
        if path.name not in ("schema.py", "load.py", "validate.py", "resume.py")
    )
    schema = (ROOT / "mindrlhf_lite/config/schema.py").read_text()
    source += schema.partition("class Config:")[2] + " ".join(re.findall(r"self\.\w+", schema))
    for key in known_keys():
        name = key.rpartition(".")[2]
        assert key == "generate_config.load" or re.search(rf"\.{name}\b(?!\()", source), key


def test_vllm_on_ascend_needs_its_plugin_and_cannot_correct_for_filters(values):
    pytest.importorskip("vllm", reason="needs vLLM: bash build.sh --vllm")
    ascend = {
        "context.device_target": "Ascend",
        "generate_config.use_vllm": 1,
        "generate_config.gpu_memory_utilization": 0.5,
    }
    found = find_problems(
        build_config(
            {
                **values,
                **ascend,
                "generate_config.sampling_config.top_p": 0.9,
                "generate_config.sampling_config.temperature": 0.8,
            }
        ),
        2,
    )
    assert len(found) == 1 and "vllm-mindspore plugin" in found[0], found  # the sampling is all right
    filters = {"generate_config.sampling_config.top_k": 20, "generate_config.sampling_config.repetition_penalty": 1.05}
    found = find_problems(build_config({**values, **ascend, **filters, "rl_config.rollout_is_cap": 2.0}), 2)
    assert sum("rollout_is_cap=2: it needs logprobs of the distribution" in line for line in found) == 1, found
    found = find_problems(build_config({**values, **ascend, "rl_config.rollout_is_cap": 2.0}), 2)
    assert len(found) == 1, found


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


def test_a_key_that_stands_twice_is_a_mistake(tmp_path):
    (tmp_path / "a.yaml").write_text("rl_config:\n  beta: 0.1\n  seed: 1\n  beta: 0.2\n")
    with pytest.raises(ConfigError, match=r"a\.yaml:4: not valid YAML \(the key beta stands twice in one mapping\)"):
        read_yaml(tmp_path / "a.yaml")


def test_a_section_without_settings_is_called_a_section():
    with pytest.raises(
        ConfigError,
        match=r"rl_config=3: a section, not a setting: give its settings below it, such as rl_config\.model_name",
    ):
        build_config({"rl_config": 3})


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


def test_types_of_every_role_and_names_of_mindformers():
    config = build_config({"actor_config.compute_dtype": "bfloat16", "ref_config.compute_dtype": "float32"})
    assert config.dtypes("actor") == ("bfloat16", "bfloat16") and config.dtypes("reference") == ("float32", "float32")
    assert config.dtypes("rollout") == ("bfloat16", "bfloat16")
    theirs = {
        "actor_config.compute_dtype": "bfloat16",
        "actor_config.param_init_type": "float32",
        "actor_config.layernorm_compute_type": "bfloat16",
        "actor_config.softmax_compute_type": "float32",
        "generate_config.rotary_dtype": "float32",
    }
    assert build_config(theirs).dtypes("actor") == ("bfloat16", "float32")
    with pytest.raises(ConfigError, match="must be one of float32, bfloat16, float16; did you mean bfloat16"):
        build_config({"actor_config.compute_dtype": "bf16loat"})
    with pytest.raises(ConfigError, match="softmax_compute_type='fp8'"):
        build_config({"actor_config.softmax_compute_type": "fp8"})


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
