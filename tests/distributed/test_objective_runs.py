"""Runs with what a step can have besides: dynamic sampling, KL in the reward, a moving reference, a teacher, long
completions.
"""

import numpy as np
import pytest
from distributed.small_runs import (
    EXACT,
    QUICKSTART_MODEL,
    as_it_was_after_step,
    completions,
    metrics,
    msrun,
    single,
    without_times,
)

from mindrlhf_lite.models.hf_weights import load_weights
from mindrlhf_lite.shapes.model_config import ModelConfig

TEACHER_KL = "policy/teacher_kl"
# of each group of four lengths modulo 3, some are all equal; the reference is mixed after every step
EVERYTHING = (
    "--rl_config.distillation.coef=0.2",  # of a teacher of another depth
    f"--teacher_config.load={QUICKSTART_MODEL}",
    "--verifier_function=verifiers_for_runs.length_modulo",
    "--verifier_weight=1.0",
    "--rl_config.num_generations=2",
    "--rl_config.dynamic_sampling.enabled=true",
    "--rl_config.dynamic_sampling.max_attempts=4",
    "--rl_config.advantage=reinforce_pp",
    "--rl_config.kl_in_reward=true",
    "--rl_config.kl_ctrl.type=adaptive",
    "--rl_config.kl_ctrl.target=0.001",
    "--rl_config.kl_ctrl.horizon=100",
    "--ref_config.sync_ref_model=true",
    "--ref_config.ref_model_sync_steps=1",
    "--rl_config.beta=0.5",
    "--rl_config.overlong.filter=true",
    "--rl_config.overlong.buffer=0.5",
    "--rl_config.save_ckpt_interval=2",
    "--rl_config.max_steps=4",
)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("objective_runs") / "whole"
    result = single(data, folder, *EVERYTHING)
    assert result.returncode == 0, result.stderr
    return folder


def test_a_step_draws_until_its_groups_are_mixed(whole):
    rows = metrics(whole)
    assert max(row["sampling/attempts"] for row in rows) > 1
    for row in rows:
        assert row["reward/zero_std_groups"] == 0 or row["sampling/attempts"] == 4
        assert row["sampling/drawn_groups"] == 4 * row["sampling/attempts"]
    assert rows[-1]["epoch"] * 20 == sum(row["sampling/drawn_groups"] for row in rows)


def test_the_kl_is_in_the_reward_and_its_coefficient_follows_it(whole):
    rows = metrics(whole)
    assert all(row["loss/kl"] == 0 for row in rows) and rows[0]["policy/kl_coefficient"] == 0.5
    for before, after in zip(rows, rows[1:], strict=False):
        error = min(max(before["reward/kl"] / 0.001 - 1, -0.2), 0.2)
        assert after["policy/kl_coefficient"] == pytest.approx(before["policy/kl_coefficient"] * (1 + error * 8 / 100))


def test_a_teacher_scores_every_step(whole):
    rows = metrics(whole)
    found = [row.get(TEACHER_KL, 0.0) for row in rows]  # of a step of cut completions nothing is trained
    assert all(row["time_s/teacher"] > 0 for row in rows)
    assert [value > 0 for value in found] == [row["policy/grad_norm"] > 0 for row in rows] and len(set(found)) == 4


def test_all_of_it_is_resumed_exactly(data, whole, tmp_path):
    as_it_was_after_step(whole, tmp_path / "parts", 2)
    result = single(data, tmp_path / "parts", *EVERYTHING, "--resume_training", "true", is_warm=False)
    assert result.returncode == 0, result.stderr
    assert "resumed after step 2" in result.stdout
    assert without_times(metrics(tmp_path / "parts")) == without_times(metrics(whole))
    assert (tmp_path / "parts/hf/model.safetensors").read_bytes() == (whole / "hf/model.safetensors").read_bytes()


def test_two_ranks_do_the_same(data, whole, tmp_path):
    """The reference on two tensor ranks, the teacher on two stages, the actor on two data ranks, with swapping; from
    where one rank stopped.
    """
    layout = (
        "--ref_config.parallel_config.model_parallel=2",
        "--teacher_config.parallel_config.pipeline_stage=2",
        "--rl_config.swap=true",
    )
    output = tmp_path / "two"
    as_it_was_after_step(whole, output, 2)
    resume = ("--rl_config.reshard_mem_opt_level=1", "--resume_training", "true")
    code, text, logs = msrun(2, data, output, *EVERYTHING, *layout, *resume)
    assert code == 0, text + logs
    assert "resumed after step 2" in text and "under other parallel strategies" in text
    for a, b in zip(metrics(whole), metrics(output), strict=True):
        assert b.get(TEACHER_KL, 0.0) == pytest.approx(a.get(TEACHER_KL, 0.0), rel=1e-4)
        for key in (*EXACT, "reward/kl", "policy/kl_coefficient", "sampling/drawn_groups"):
            assert b[key] == pytest.approx(a[key], rel=1e-4, abs=1e-7), (a["step"], key)
    assert metrics(output)[3]["swap/bytes"] > 0 and not any((output / "swap").iterdir())  # spill files have no name
    config = ModelConfig.from_dir(data / "model")
    ours, theirs, start = (load_weights(folder, config) for folder in (output / "hf", whole / "hf", data / "model"))
    for name in ours:  # Adam makes whole steps of a few gradients that are rounding errors
        change = np.linalg.norm(theirs[name] - start[name])
        assert np.linalg.norm(ours[name] - theirs[name]) < 2e-3 * change, name


def test_a_prompt_drawn_twice_in_a_step_is_completed_anew(data, tmp_path):
    """16 of 20 prompts a step: the second step has the last 4 of an epoch and 12 of the next."""
    result = single(data, tmp_path / "run", "--rl_config.num_rollouts=4", "--rl_config.max_steps=2")
    assert result.returncode == 0, result.stderr
    rows, twice = completions(tmp_path / "run", 2), 0
    for group in {row["group"] for row in rows}:
        texts = [row["completion"] for row in rows if row["group"] == group]
        twice += len(texts) == 8
        assert len(texts) == 4 or texts[:4] != texts[4:]
    assert twice > 0


def test_a_run_is_not_extended_at_a_learning_rate_of_zero(data, tmp_path):
    schedule = "--actor_config.lr_schedule"
    decays = (f"{schedule}.lr_decay_style=linear", f"{schedule}.warmup_step=0", "--rl_config.save_ckpt_interval=1")
    on = ("--resume_training", "true")
    assert single(data, tmp_path / "run", *decays, "--rl_config.max_steps=1").returncode == 0
    refused = single(data, tmp_path / "run", *decays, *on, "--rl_config.max_steps=3")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "learning rate is 0 from update 1 on" in refused.stderr and "decay_steps=3" in refused.stderr
    assert not (tmp_path / "run/completions/step_000002.jsonl").exists()
