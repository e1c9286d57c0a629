"""The configuration: every mistake is named, with key, value and fix, all at once, before anything starts."""

import pytest
import yaml
from helpers import ROOT, run_python

from mindrlhf_lite.config.load import FLAGS, ConfigError, build_config, known_keys, parse_overrides, read_yaml
from mindrlhf_lite.config.validate import find_problems
from mindrlhf_lite.launch.command_line import parse_command_line


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


def test_texts_are_taken_as_they_are_typed():
    """Also those that YAML would read as something else, or not at all."""
    for text in ("{prompt} is {completion}!", "Q: {question} A: {completion}", "7", "[a", "yes"):
        assert parse_overrides([f"--reward_config.reward_model.template={text}"]) == {
            "reward_config.reward_model.template": text
        }


def test_overrides_need_values():
    with pytest.raises(ConfigError, match="a value is missing"):
        parse_overrides(["--rl_config.seed"])


def test_every_key_is_documented_and_the_document_is_current():
    """docs/config.md is generated: python tools/document_config.py"""
    result = run_python("tools/document_config.py", "--check")
    assert result.returncode == 0, result.stdout + result.stderr
    assert all(entry.metadata["facts"].help for entry in known_keys().values())
    assert set(FLAGS.values()) <= set(known_keys())


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
