"""Runs with a critic: two trained models are resumed exactly, and two ranks do what one does."""

import json

import pytest
from distributed.small_runs import EXACT, as_it_was_after_step, metrics, msrun, single, without_times

from mindrlhf_lite.models.open_tensors import open_tensor_file
from mindrlhf_lite.parallel.layout import whole_box

CRITIC = ("critic/loss", "critic/grad_norm", "critic/value_mean", "critic/return_mean", "critic/explained_variance")
VALUED = (
    "--rl_config.advantage=gae",
    "--rl_config.gamma=0.99",
    "--rl_config.num_generations=2",
    "--rl_config.batch_size=4",  # two updates a step, of both
    "--critic_config.warmup_steps=1",
    "--critic_config.lr_schedule.lr=1e-3",
    "--critic_config.lr_schedule.lr_decay_style=linear",
    "--rl_config.save_ckpt_interval=2",
    "--rl_config.max_steps=4",
)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("critic_runs") / "whole"
    result = single(data, folder, *VALUED)
    assert result.returncode == 0, result.stderr
    return folder


def critic_of(run, step=4):
    """Every tensor of the critic in a checkpoint of one rank: weights and moments."""
    file = open_tensor_file(run / f"checkpoints/step_{step}/rank_00000.safetensors")
    return {name: file.read(name, whole_box(e.shape)) for name, e in file.entries.items() if name.startswith("critic_")}


def test_the_critic_learns_and_the_actor_waits_for_it(whole):
    rows = metrics(whole)
    assert all(row["critic/grad_norm"] > 0 and row["time_s/critic"] > 0 for row in rows)
    assert rows[0]["policy/grad_norm"] == 0.0 and all(row["policy/grad_norm"] > 0 for row in rows[1:])
    assert [row["critic/lr"] for row in rows] == pytest.approx([1e-3 * (8 - n) / 8 for n in (1, 3, 5, 7)])
    state = json.loads((whole / "checkpoints/step_4/state.json").read_text())
    assert state["updates_done"] == 6 and state["critic"]["updates_done"] == 8
    found = critic_of(whole)
    assert "critic_weight/score.weight" in found and "critic_weight/lm_head.weight" not in found
    assert all(
        f"critic_optimizer/adam_{m}.{name.partition('/')[2]}" in found
        for m in "mv"
        for name in found
        if "_weight/" in name
    )
    first = critic_of(whole, 2)
    assert any((first[name] != values).any() for name, values in found.items())


def test_both_models_are_resumed_exactly(data, whole, tmp_path):
    as_it_was_after_step(whole, tmp_path / "parts", 2)
    result = single(data, tmp_path / "parts", *VALUED, "--resume_training", "true", is_warm=False)
    assert result.returncode == 0, result.stderr
    assert "resumed after step 2" in result.stdout
    assert without_times(metrics(tmp_path / "parts")) == without_times(metrics(whole))
    assert (tmp_path / "parts/hf/model.safetensors").read_bytes() == (whole / "hf/model.safetensors").read_bytes()
    ours, theirs = critic_of(tmp_path / "parts"), critic_of(whole)
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)


@pytest.mark.parametrize(
    "layout",
    [
        ("critic_config.parallel_config.model_parallel=2", "rl_config.swap=true"),
        pytest.param(
            ("critic_config.enable_parallel_optimizer=true", "actor_config.parallel_config.micro_batch_num=2"),
            marks=pytest.mark.full,
        ),
        pytest.param(
            ("critic_config.recompute_config.recompute=true", "actor_config.parallel_config.model_parallel=2"),
            marks=pytest.mark.full,
        ),
    ],
    ids=["tensor ranks and swapping", "shared moments and micro-batches", "data ranks and recomputing"],
)
def test_two_ranks_do_the_same(data, whole, tmp_path, layout):
    """From where one rank stopped: the critic under another strategy than the actor."""
    output = tmp_path / "two"
    as_it_was_after_step(whole, output, 2)
    on = (*(f"--{setting}" for setting in layout), "--resume_training", "true")
    code, text, logs = msrun(2, data, output, *VALUED, *on)
    assert code == 0, text + logs
    assert "resumed after step 2" in text
    for a, b in zip(metrics(whole), metrics(output), strict=True):
        for key in (*EXACT, *CRITIC):
            assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-6), (a["step"], key)
