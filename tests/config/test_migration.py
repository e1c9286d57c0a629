"""Configurations of MindRLHF and MindSpeed-RL: what becomes of their keys, and that they run as they are.

The short files here are written for the tests, with keys of those toolkits; the real ones are read in ../shared.
"""

import re

import pytest
from config.their_files import MAIN, MINDRLHF_FILE, MINDSPEED_FILE, MODEL_FILE, ours, written
from helpers import ROOT, run_python

from mindrlhf_lite.config.aliases.tables import MINDRLHF, MINDSPEED_RL, VERL, find_row, table, toolkit_of
from mindrlhf_lite.config.aliases.toolkits import translate
from mindrlhf_lite.config.load import ConfigError, build_config, collect, known_keys, read_yaml
from mindrlhf_lite.rewards.verifiers import BUILT_IN


def test_tables_name_settings_that_are_there():
    known = known_keys()
    for toolkit in (MINDRLHF, MINDSPEED_RL, VERL):
        for key, row in table(toolkit).items():
            assert row.zh or row.kind == "same", key
            if row.kind in ("same", "to") and row.section != "flat":
                assert row.ours in known, (key, row.ours)
                values = [value for value in (row.values or {}).values() if value is not None]
                for value in [*values, *([row.translated(row.default)] if row.has_default else [])]:
                    _, problems = collect({row.ours: value})
                    assert not problems, problems
            if row.section == "flat" and row.kind == "to":
                assert find_row(MINDRLHF, row.ours) is not None or row.ours in known, key


@pytest.mark.parametrize(
    ("folder", "file", "toolkit"),
    [("mindrlhf", "grpo_config.yaml", MINDRLHF), ("mindspeed_rl", "grpo_qwen25_7b_A3.yaml", MINDSPEED_RL)],
)
def test_every_key_of_the_real_files_has_a_row(shared, folder, file, toolkit):
    values = read_yaml(str(shared / "configs" / folder / file))
    assert toolkit_of(values) == toolkit
    megatron = ("megatron_training.", "actor_config.")
    for key in values:
        name = next((f"megatron.{key.removeprefix(each)}" for each in megatron if key.startswith(each)), key)
        assert key == "defaults" or find_row(toolkit, name if toolkit == MINDSPEED_RL else key), key


def test_quantities_of_mindrlhf(tmp_path):
    """By hand: 3 prompts on each of 4 rollout ranks, 2 rounds, 4 completions: 96 a step. An update takes 2 rows on each
    of 2 actor ranks and 4 micro-batches: 16.
    """
    config, _ = ours(written(tmp_path, MINDRLHF_FILE), actor_config__load=str(ROOT / "examples/quickstart/model"))
    rl = config.rl_config
    assert (rl.chunk_size, config.prompts_per_step, config.completions_per_step) == (12, 24, 96)
    assert (rl.batch_size, config.updates_per_step) == (16, 6)
    assert config.actor_config.parallel_config.micro_batch_num == 4
    assert config.actor_config.parallel_config.stage_layers == [1, 3]  # 4 layers on 2 stages, -1 and +1
    assert config.actor_config.recompute_config.select_recompute and not config.actor_config.recompute_config.recompute
    assert config.context.deterministic and not rl.swap
    assert config.ref_config.ref_model_mixup_alpha == 1.0
    # what the file leaves out is what it is there
    sampling = config.generate_config.sampling_config
    assert (sampling.top_p, sampling.repetition_penalty, sampling.min_tokens, sampling.top_k) == (0.8, 1.05, 2, 0)
    lr = config.actor_config.lr_schedule
    assert (lr.lr, lr.warmup_step, lr.decay_steps, lr.lr_decay_style) == (5e-7, 10, 200000, "cosine")
    assert rl.beta == 0.01
    assert config.monitor_config.host_monitor_steps == [1, 5, 6, 7]
    assert (config.profiler_config.profile_step_start, config.profiler_config.profile_step_end) == (1, 3)
    assert config.reward_config.verifier_function == ["qwen_accuracy_reward", "format_reward"]


def test_the_command_line_speaks_the_files_language(tmp_path):
    path = written(tmp_path, MINDRLHF_FILE.replace("offset: [-1, 1]", "offset: 0"))
    config, _ = ours(path, rl_config__chunk_size=1, rl_config__output_dir="here", generate_config__use_vllm=0)
    assert config.rl_config.chunk_size == 4 and config.rl_config.output_dir == "here"


def test_the_policy_that_mindrlhf_trains(tmp_path):
    """It divides no logits by the temperature; without enable_oldpolicy its ratio is to the policy of the update."""
    text = MINDRLHF_FILE.replace("enable_oldpolicy: True", "enable_oldpolicy: False")
    text = text.replace("temperature: 1.0", "temperature: 0.6")
    config, translation = ours(written(tmp_path, text))
    assert config.updates_per_step == 6 and not config.keeps_frozen_policy
    assert config.policy_temperature == 1.0 and config.generate_config.sampling_config.temperature == 0.6
    assert any("ratio_to: update" in line for line in translation.remarks)
    assert ours(written(tmp_path, MINDRLHF_FILE))[0].keeps_frozen_policy


def test_what_would_change_numbers_is_refused(tmp_path):
    text = MINDRLHF_FILE.replace("mode: 0", "mode: 1")
    text = text.replace("hf_safetensors", "ckpt").replace("offset: [-1, 1]", "offset: [1, 2, 3]")
    path = written(tmp_path, text)
    translation = translate(read_yaml(str(path)), str(path))
    for wanted in ("context.mode=1", "load_ckpt_format='ckpt'"):
        assert any(wanted in line for line in translation.problems), (wanted, translation.problems)
    assert any("actor_config.offset=[1, 2, 3]: a list of 2" in line for line in translation.problems)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("chunk_size: 3", "chunk_size: x", "rl_config.chunk_size='x': a whole number is needed"),
        ("chunk_size: 3", "chunk_size:", "rl_config.chunk_size=None: a whole number is needed"),
        ("micro_batch_num: 4", "micro_batch_num: many", "micro_batch_num='many': a whole number is needed"),
        ("num_generations: 4", "num_generations: x", "rl_config.num_generations='x': a whole number is needed"),
        ("[1, [5, 7]]", "[[1]]", "host_monitor_steps=[[1]]: numbers of steps, or pairs"),
        ("profile_step_start: 0", "profile_step_start: a", "profile_step_start='a': a whole number is needed"),
    ],
)
def test_values_of_a_wrong_type_are_named(tmp_path, old, new, message):
    assert old in MINDRLHF_FILE
    path = written(tmp_path, MINDRLHF_FILE.replace("offset: [-1, 1]", "offset: 0").replace(old, new))
    for command in ((MAIN, "--config", path, "--dry_run"), ("tools/migrate_config.py", path)):
        result = run_python(*command)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_what_is_worked_out_is_in_the_lists(tmp_path):
    """Of every setting of a file, something is said, or it stays as it is."""
    written(tmp_path, MODEL_FILE, "small.yaml")
    for text, toolkit in (
        (MINDRLHF_FILE.replace("offset: [-1, 1]", "offset: 0"), MINDRLHF),
        (MINDSPEED_FILE, MINDSPEED_RL),
    ):
        path = written(tmp_path, text)
        translation = ours(path)[1]
        said = "\n".join([*translation.remarks, *translation.accepted, *translation.missing])
        for key in read_yaml(str(path)):
            name = key if toolkit == MINDRLHF else key.replace("actor_config.", "megatron_training.")
            row = find_row(toolkit, name.replace("megatron_training.", "megatron."))
            is_same = row is not None and row.kind in ("same", "to") and row.ours == key
            assert is_same or f"{name}:" in said or key in ("defaults", "rl_config.enable_oldpolicy"), (key, said)


def test_degrees_of_their_file_win_over_those_of_a_model_file(shared, tmp_path):
    path, model = shared / "configs/mindspeed_rl/grpo_qwen25_7b_A3.yaml", ROOT / "model_configs/qwen2_5_7b.yaml"
    result = run_python(MAIN, "--config", path, "--dry_run", "--devices", 8, "--model_config", model)
    assert result.returncode == 0 and "actor dp=2,tp=2,pp=2" in result.stdout, result.stdout + result.stderr
    assert "32 prompts x 8 completions" in result.stdout


def test_a_file_without_sections(tmp_path):
    path = written(
        tmp_path,
        """
        align_type: rlhf_stages
        sink_size: 2
        chunk_size: 2
        num_rollouts: 3
        num_generations: 8
        beta: 0.02
        beta1: 0.8
        start_lr: 3.0e-6
        end_lr: 1.0e-7
        mind_dataset_dir: a.mindrecord
        device_target: CPU
        vf_coef: 1.0
        """,
    )
    config, translation = ours(path)
    assert (config.prompts_per_step, config.rl_config.beta) == (6, 0.02)
    assert config.actor_config.optimizer.adam_beta1 == 0.8
    assert (config.actor_config.lr_schedule.lr, config.actor_config.lr_schedule.min_lr) == (3e-6, 1e-7)
    assert config.rl_config.dataset_file == "a.mindrecord" and any("vf_coef" in line for line in translation.accepted)


def test_quantities_of_mindspeed_rl(tmp_path):
    """By hand: 16 prompts x 4 = 64 completions a step; an update takes 8 prompts, 32 of them: two updates, 20 in all,
    of which a tenth warms up. On 16 ranks, tp 2, pp 2, cp 2 leave 2 shares of 16 completions, 2 a micro-batch: 8.
    """
    written(tmp_path, MODEL_FILE, "small.yaml")
    config, translation = ours(written(tmp_path, MINDSPEED_FILE))
    rl, actor = config.rl_config, config.actor_config
    assert (rl.chunk_size, rl.num_rollouts, rl.num_generations, rl.batch_size) == (16, 1, 4, 32)
    assert (config.updates_per_step, rl.max_steps, actor.lr_schedule.warmup_step) == (2, 10, 2)
    parallel = actor.parallel_config
    assert (parallel.model_parallel, parallel.pipeline_stage, parallel.context_parallel) == (2, 2, 2)
    assert parallel.micro_batch_num == 8 and parallel.stage_layers == [3, 1]
    assert config.ref_config.parallel_config.model_parallel == 2
    assert (rl.beta, rl.epsilon_low, rl.epsilon_high, rl.kl_estimator) == (0.001, 0.3, 0.3, "k3")
    assert actor.optimizer.max_grad_norm == 5.0 and actor.optimizer.adam_beta2 == 0.999  # theirs where it is left out
    assert actor.lr_schedule.lr == 1e-6 and actor.lr_schedule.lr_decay_style == "linear"
    assert rl.seq_length == 128 + 256 and config.generate_config.max_prompt_length == 128
    assert actor.compute_dtype == "bfloat16" and actor.recompute_config.recompute and rl.swap
    assert (
        config.generate_config.sampling_config.top_p == 1.0
        and config.generate_config.parallel_config.model_parallel == 2
    )
    assert actor.load == "./nowhere" and rl.dataset_file == "./data/train.mindrecord"
    assert any("16 ranks" in line for line in translation.remarks)


def test_on_the_command_line_of_mindspeed_rl_our_keys_are_ours(tmp_path):
    written(tmp_path, MODEL_FILE, "small.yaml")
    path, words = (
        written(tmp_path, MINDSPEED_FILE),
        {
            "rl_config__beta": 0.0,
            "context__device_target": "CPU",
            "actor_config__load": "mine",
            "actor_config__lr": 2e-5,
        },
    )
    config, _ = ours(path, **words, rl_config__n_samples_per_prompt=2)
    assert (config.rl_config.beta, config.context.device_target, config.actor_config.load) == (0.0, "CPU", "mine")
    assert config.actor_config.lr_schedule.lr == 2e-5 and config.rl_config.num_generations == 2


def test_dapo_of_mindspeed_rl(tmp_path):
    text = MINDSPEED_FILE.replace("ray_grpo", "ray_dapo").replace(
        "clip_ratio: 0.3",
        "clip_ratio: 0.3\n      clip_higher_enable: true\n      clip_ratio_low: 0.2\n      clip_ratio_high: 0.28\n"
        "      filter_groups_enable: true\n      filter_groups_train_batch_size: 8\n"
        "      filter_groups_max_batches: 0\n      token_level_loss: false\n"
        "      overlong_buffer_enable: true\n      overlong_buffer: 64\n      overlong_buffer_penalty_factor: 0.1\n"
        "      use_dynamic_bsz: true\n      update_max_packing_token_size: 4096\n      rollout_max_tokens: 256",
    )
    config, _ = ours(written(tmp_path, text))
    rl = config.rl_config
    assert (rl.beta, rl.epsilon_low, rl.epsilon_high, rl.loss_aggregation) == (0.0, 0.2, 0.28, "sequence_mean")
    assert rl.dynamic_sampling.enabled and rl.dynamic_sampling.max_attempts == 1000 and rl.chunk_size == 8
    assert rl.overlong.buffer == 64.0 and rl.overlong.penalty == 0.1
    assert rl.micro_batch_tokens == 4096 and config.actor_config.parallel_config.micro_batch_num == 0


def test_the_shortest_file_of_mindspeed_rl_is_known(tmp_path):
    """A model, Megatron's switch and nothing else."""
    path = written(
        tmp_path, "defaults:\n  - model:\n      - tiny_1b\nactor_config: {model: tiny_1b, use_mcore_models: true}\n"
    )
    translation = translate(read_yaml(str(path)), str(path))
    assert translation is not None and translation.toolkit == MINDSPEED_RL


def test_every_row_that_is_worked_out_is_read():
    """A key that the tables call worked out, and no code names, would be lost in silence."""
    code = "".join(
        (ROOT / f"mindrlhf_lite/config/aliases/{name}.py").read_text()
        for name in ("mindrlhf", "mindspeed_rl", "loggers")
    )
    shapes = (ROOT / "mindrlhf_lite/models/megatron.py").read_text()
    for toolkit in (MINDRLHF, MINDSPEED_RL):
        for key, row in table(toolkit).items():
            if row.kind == "work" and row.section != "data":
                assert f"{row.key}" in code + shapes, key


def test_older_files_count_completions(tmp_path):
    """mini_batch_size 8 of 64 completions: eight updates."""
    text = MINDSPEED_FILE + "    ref_config:\n      load: ./ckpt\n"
    assert ours(written(tmp_path, text))[0].updates_per_step == 8


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("actor_config.tensor_model_parallel_size", 2, "a key of MindSpeed-RL: model_parallel of actor and reference"),
        ("rl_config.mini_batch_size", 8, "a key of MindSpeed-RL"),
        ("rl_config.micro_batch_interleaved", 2, "a key of MindRLHF"),
        ("context.mode", 1, "everything is compiled as graphs"),
        ("rl_config.zzyzx", 1, "remove it; docs/config.md lists all keys"),
        ("rl_config.foo", 1, "remove it; docs/config.md lists all keys"),
        ("rl_config.wandb", 1, "remove it; docs/config.md lists all keys"),
        ("actor_config.lora", 1, "such as actor_config.lora.rank"),
        ("rl_config.enable_oldpolcy", 1, "did you mean rl_config.enable_oldpolicy?"),
    ],
)
def test_single_keys_of_others_in_a_file_of_ours(key, value, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_config({key: value})


def test_keys_without_effect_are_accepted_in_a_file_of_ours():
    config = build_config({"context.mode": 0, "rl_config.pack_num": 1, "rl_config.deterministic": "OFF"})
    assert config.context.deterministic is False


def test_their_verifiers_have_their_names():
    for name in ("acc", "base_acc", "math_17k_acc", "acc_for_dapo", "format", "strict_format", "reasoning_steps"):
        assert name in BUILT_IN
