"""verl's configurations: a Hydra tree, overrides, and shell scripts with them. The real tree is read in ../shared."""

from pathlib import Path

import pytest
from config.their_files import MAIN, written
from helpers import ROOT, run_python

from mindrlhf_lite.config.aliases.hydra import is_override, read_tree
from mindrlhf_lite.config.aliases.shell_words import words_of_script
from mindrlhf_lite.config.aliases.tables import VERL, find_row, toolkit_of
from mindrlhf_lite.config.aliases.toolkits import read_configuration, translate
from mindrlhf_lite.config.load import collect
from mindrlhf_lite.errors import UserError

FILE = """
    defaults:
      - ppo_trainer
      - data: arithmetic
      - optim@actor_rollout_ref.actor.optim: quick
      - _self_
    data:
      train_batch_size: 64
      max_response_length: ${data.max_prompt_length}
    actor_rollout_ref:
      model: {path: nowhere/model, lora_rank: 8, lora_alpha: 32}
      rollout: {name: vllm, n: 8, tensor_model_parallel_size: 4, val_kwargs: {n: 4, do_sample: true, temperature: 0.6}}
      actor: {ppo_mini_batch_size: 32, ppo_micro_batch_size_per_gpu: 4, use_kl_loss: true, kl_loss_coef: 0.002}
      ref: {log_prob_micro_batch_size_per_gpu: 16}
    algorithm: {adv_estimator: grpo, norm_adv_by_std_in_grpo: false}
    custom_reward_function: {path: own/reward.py, name: score}
    trainer: {n_gpus_per_node: 8, nnodes: 2, total_training_steps: 100, save_freq: 20, logger: [tensorboard, wandb]}
"""
DATA = "train_files: [a/train.parquet, b/train.parquet]\nmax_prompt_length: 128\n"
OPTIM = "# @package ignored\nlr: 1e-5\nlr_warmup_steps_ratio: 0.1\n"
SCRIPT = """
#!/usr/bin/env bash
set -x
export VLLM_USE_V1=1 HYDRA_FULL_ERROR=1
n=8
prompt=$((1024 * 2))
MODEL_PATH=${MODEL_PATH:-"nowhere/Qwen2.5-7B"}
files="['$HOME/a.parquet', 'b.parquet']"
ALGORITHM=(
    algorithm.adv_estimator=rloo   # not grpo
    algorithm.use_kl_in_reward=False
)
MORE="data.shuffle=True data.seed=3"
# python3 -m verl.trainer.main_ppo data.seed=9
python3 -m verl.trainer.main_ppo --config-name=ppo_trainer "${ALGORITHM[@]}" $MORE \\
    data.train_files="$files" data.train_batch_size=128 data.max_prompt_length=${prompt} \\
    data.max_response_length=$((prompt * 2 + 1)) \\
    actor_rollout_ref.model.path="$MODEL_PATH" actor_rollout_ref.rollout.name=vllm \\
    +actor_rollout_ref.model.override_config.attn_implementation=sdpa \\
    actor_rollout_ref.rollout.n=$n trainer.logger='["console","wandb"]' \\
    trainer.experiment_name="run $(date +%s)" trainer.n_gpus_per_node=8 $@ 2>&1 | tee log_$(date).txt
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/arithmetic.yaml").write_text(DATA)
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim/quick.yaml").write_text(OPTIM)
    return written(tmp_path, FILE)


def ours(path, words=(), num_ranks=0):
    values, rest = read_configuration(str(path), words)
    assert not rest and toolkit_of(values) == VERL
    translation = translate(values, str(path), num_ranks=num_ranks)
    config, problems = collect(translation.values)
    assert not problems, problems
    return config, translation


def test_every_key_of_the_real_tree_has_a_row_and_its_defaults_are_the_tables(shared):
    values = read_tree(shared / "configs/verl/ppo_trainer_generated.yaml")
    assert len(values) > 400 and toolkit_of(values) == VERL
    for key, value in values.items():
        row = find_row(VERL, key)
        assert row is not None or key.endswith("_target_"), key
        if row is not None and row.has_default and row.full_key == key and key != "actor_rollout_ref.rollout.name":
            assert row.default == value, key


def test_quantities(file):
    """By hand: 64 prompts x 8 a step, an update of 32 x 8; 16 ranks: 16 completions a rank and update, by 4."""
    config, translation = ours(file)
    rl, actor = config.rl_config, config.actor_config
    assert (config.prompts_per_step, config.completions_per_step, rl.batch_size) == (64, 512, 256)
    assert config.updates_per_step == 2 and actor.parallel_config.micro_batch_num == 4
    assert (config.generate_config.max_prompt_length, config.generate_config.sampling_config.max_tokens) == (128, 128)
    assert rl.seq_length == 256 and rl.dataset_file == "a/train.mindrecord"
    assert actor.lr_schedule.lr == 1e-5 and actor.lr_schedule.warmup_step == 20  # a tenth of 100 steps of 2 updates
    assert (rl.beta, rl.kl_estimator, rl.kl_in_reward) == (0.002, "k3", False)
    assert (rl.advantage, rl.loss, rl.dual_clip, rl.loss_aggregation) == ("dr_grpo", "ppo", 3.0, "token_mean")
    assert (actor.optimizer.adam_beta2, actor.optimizer.weight_decay) == (0.999, 0.01)
    assert (actor.lora.rank, actor.lora.alpha, actor.lora.target_modules) == (8, 32.0, ["all-linear"])
    assert actor.lora.rollout == "merge" and config.generate_config.parallel_config.model_parallel == 4
    assert (rl.eval_samples, rl.eval_temperature, rl.eval_interval, rl.save_ckpt_interval) == (4, 0.6, 0, 20)
    assert config.reward_config.verifier_function == ["own/reward.py:score"]
    assert rl.trackers == ["tensorboard"] and config.ref_config.ref_model_batch_size == 16
    assert any("a/train.parquet b/train.parquet" in line for line in translation.remarks)
    assert any("wandb" in line for line in translation.missing)


def test_overrides_have_the_last_word_and_interpolations_see_them(file):
    words = ["data.max_prompt_length=256", "+data.seed=7", "~actor_rollout_ref.model.lora_rank"]
    words += ["actor_rollout_ref.actor.clip_ratio=0.28", "rl_config.output_dir=here"]
    config, _ = ours(file, words)
    assert config.generate_config.sampling_config.max_tokens == 256
    assert config.rl_config.seed == 7 and config.actor_config.lora.rank == 0
    assert config.rl_config.epsilon_low == config.rl_config.epsilon_high == 0.28
    assert config.rl_config.output_dir == "here"


@pytest.mark.parametrize(
    ("word", "settings"),
    [
        (
            "actor_rollout_ref.actor.strategy=megatron",
            {"model_parallel": 2, "pipeline_stage": 4, "context_parallel": 1},
        ),
        ("actor_rollout_ref.actor.ulysses_sequence_parallel_size=2", {"model_parallel": 1, "context_parallel": 2}),
    ],
)
def test_degrees(file, word, settings):
    megatron = "actor_rollout_ref.actor.megatron."
    degrees = [f"{megatron}tensor_model_parallel_size=2", f"{megatron}pipeline_model_parallel_size=4"]
    config, _ = ours(file, [word, *degrees])
    for role in (config.actor_config, config.ref_config):
        assert {key: getattr(role.parallel_config, key) for key in settings} == settings
        assert role.parallel_config.use_seq_parallel == ("megatron" in word)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("algorithm.adv_estimator=remax", "gae, rloo"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode=clip_cov", "vanilla, gspo, sapo, gpg, cispo are there"),
        ("actor_rollout_ref.rollout.multi_turn.enable=true", "environment_config"),
        ("data.custom_cls.path=own.py", "classes of verl are not run here"),
        ("data.train_batch_size=many", "a whole number is needed"),
        ("algorithm.use_kl_in_reward=true", "one of them"),
    ],
)
def test_what_must_be_changed_is_said(file, word, message):
    result = run_python("tools/migrate_config.py", file, word)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr
    assert word.partition("=")[0] in result.stderr


def test_a_critic_and_a_reward_model(file):
    words = ["algorithm.adv_estimator=gae", "algorithm.lam=0.9", "critic.optim.lr=2e-5", "trainer.critic_warmup=5"]
    words += ["critic.model.path=nowhere/critic", "reward_model.enable=true", "reward_model.model.path=nowhere/reward"]
    words += ["actor_rollout_ref.model.lora_rank=0"]
    config, _ = ours(file, words)
    assert (config.rl_config.advantage, config.rl_config.lam, config.rl_config.cliprange_value) == ("gae", 0.9, 0.5)
    critic = config.critic_config
    assert (critic.load, critic.lr_schedule.lr) == ("nowhere/critic", 2e-5)
    assert critic.warmup_steps == 4  # there the actor learns in step 5
    assert critic.optimizer.adam_beta2 == 0.999 and critic.recompute_config.recompute
    assert config.reward_config.reward_model.load == "nowhere/reward"
    assert config.reward_config.verifier_weight == [0.0]  # there the score is the reward
    _, translation = ours(file, ["critic.optim.lr=2e-5"])
    assert any(line.startswith("critic.optim.lr: 2e-05: of gae") for line in translation.accepted)
    values, _ = read_configuration(str(file), ["critic.nonsense=3", "critic.ppo_epochs=4"])
    translation = translate(values, str(file))
    assert any(line.startswith("critic.ppo_epochs: 4") for line in translation.missing)
    assert any("critic.nonsense=3: unknown key" in line for line in collect(translation.values)[1])


def test_data_that_is_converted_already(file):
    config, _ = ours(file, ["data.train_files=a/train.mindrecord"])
    assert config.rl_config.dataset_file == "a/train.mindrecord"


def test_words_of_a_script():
    words = words_of_script(SCRIPT)
    assert "data.seed=9" not in words and "algorithm.adv_estimator=rloo" in words and "not" not in words
    assert [word for word in words if word.startswith("data.")] == [
        "data.shuffle=True",
        "data.seed=3",
        f"data.train_files=['{Path.home()}/a.parquet', 'b.parquet']",
        "data.train_batch_size=128",
        "data.max_prompt_length=2048",
        "data.max_response_length=4097",
    ]
    assert "actor_rollout_ref.model.path=nowhere/Qwen2.5-7B" in words
    assert 'trainer.logger=["console","wandb"]' in words
    assert not is_override("--config-name=ppo_trainer") and not is_override("MODEL_PATH=x")


def test_a_script_is_a_configuration_and_nothing_of_it_is_run(tmp_path):
    path = tmp_path / "run.sh"
    path.write_text(SCRIPT + f"\ntouch {tmp_path}/made $(touch {tmp_path}/made)\n")
    config, translation = ours(path, ["trainer.total_epochs=2"])
    assert config.rl_config.advantage == "rloo" and config.rl_config.epochs == 2 and config.rl_config.seed == 3
    assert config.rl_config.chunk_size == 128 and not (tmp_path / "made").exists()
    assert any("attn_implementation" in line for line in translation.accepted)


def test_a_plan_from_a_script(tmp_path):
    path = tmp_path / "run.sh"
    path.write_text(SCRIPT)
    model = ROOT / "model_configs/qwen2_5_7b.yaml"
    plan = (
        "--dry_run",
        "--devices",
        8,
        "--model_config",
        model,
        "actor_rollout_ref.rollout.tensor_model_parallel_size=4",
    )
    result = run_python(MAIN, "--config", path, *plan)
    assert result.returncode == 0 and "128 prompts x 8 completions" in result.stdout, result.stdout + result.stderr
    assert "rollout dp=2,tp=4" in result.stdout, result.stdout


def test_broken_trees(tmp_path):
    circle = written(tmp_path, "defaults: [ppo_trainer, circle]\nalgorithm: {adv_estimator: grpo}\n", "circle.yaml")
    with pytest.raises(UserError, match="circles"):
        read_tree(circle)
    lost = written(tmp_path, "algorithm: {gamma: '${nowhere.at.all}'}\n", "lost.yaml")
    with pytest.raises(UserError, match=r"algorithm.gamma: Interpolation key 'nowhere.at.all' not found"):
        read_tree(lost)
    with pytest.raises(UserError, match=r"~data\.seed: it is not there"):
        read_tree(written(tmp_path, "algorithm: {gamma: 1}\n"), ["~data.seed"])
    empty = tmp_path / "empty.sh"
    empty.write_text("echo 'nothing\n")
    with pytest.raises(UserError, match="no settings in it"):
        read_tree(empty)


OWN_REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    assert data_source == "sums" and extra_info["level"] == 1, (data_source, extra_info)
    return {"score": float(solution_str.startswith(ground_truth))}
"""
OWN_SCRIPT = """
python3 -m verl.trainer.main_ppo algorithm.adv_estimator=grpo data.train_files=rows.jsonl data.train_batch_size=4 \\
    data.max_prompt_length=8 data.max_response_length=16 actor_rollout_ref.model.path={model} \\
    actor_rollout_ref.rollout.name=hf actor_rollout_ref.rollout.n=4 actor_rollout_ref.actor.fsdp_config.dtype=float32 \\
    actor_rollout_ref.rollout.tensor_model_parallel_size=1 actor_rollout_ref.rollout.dtype=float32 \\
    actor_rollout_ref.actor.ppo_mini_batch_size=4 custom_reward_function.path=reward.py trainer.device=cpu \\
    trainer.n_gpus_per_node=1 trainer.total_training_steps=1
"""


@pytest.mark.full
def test_a_script_with_a_reward_of_its_own_runs_as_it_is(tmp_path):
    model = ROOT / "examples/quickstart/model"
    (tmp_path / "reward.py").write_text(OWN_REWARD)
    (tmp_path / "run.sh").write_text(OWN_SCRIPT.format(model=model))
    row = '{"data_source": "sums", "prompt": [{"role": "user", "content": "%d+1="}], "extra_info": {"level": 1}, '
    row += '"reward_model": {"style": "rule", "ground_truth": "%d"}}\n'
    (tmp_path / "rows.jsonl").write_text("".join(row % (number, number + 1) for number in range(8)))
    given = (
        "--dataset_type",
        "verl",
        "--keep_columns",
        "extra_info",
        "--prompt_type",
        "plain",
        "--tokenizer_dir",
        model,
    )
    sizes = ("--max_prompt_length", 8, "--seq_length", 24, "--file_path", "rows.jsonl")
    made = run_python(ROOT / "tools/rlhf_data.py", *given, *sizes, "--output_path", "rows.mindrecord", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    run = run_python(ROOT / MAIN, "--config", "run.sh", "rl_config.output_dir=out", cwd=tmp_path)
    assert run.returncode == 0 and (tmp_path / "out/hf/model.safetensors").is_file(), run.stdout + run.stderr
