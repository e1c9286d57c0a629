"""Whole runs under real msrun jobs: layout invariance, exact resume, errors of any rank, files."""

import json
import shutil

import numpy as np
import pytest
from distributed.small_runs import (
    EXACT,
    as_it_was_after_step,
    completions,
    metrics,
    msrun,
    single,
    without_times,
)
from helpers import ROOT, read_jsonl, run_python

from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.observe.health import CHECKS


@pytest.mark.full  # by default tests/distributed/test_layouts.py compares updates, activations and completions
def test_one_and_two_ranks_agree(data, tmp_path):
    """Same sampled tokens; losses and gradient norms to 1e-5; also with several minibatches, iterations and
    micro-batches.
    """
    settings = (
        "--rl_config.batch_size=8",
        "--rl_config.num_iterations=2",
        "--rl_config.eval_dataset_file=" + str(data / "held_out.mindrecord"),
    )
    one = single(data, tmp_path / "one", *settings, "--actor_config.parallel_config.micro_batch_num=3")
    assert one.returncode == 0, one.stderr
    code, text, logs = msrun(2, data, tmp_path / "two", *settings, "--actor_config.parallel_config.micro_batch_num=2")
    assert code == 0, text + logs
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        for key in EXACT:
            assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-7), (a["step"], key)
    for step in (1, 2, 3):
        as_set = [
            sorted((row["prompt"], row["completion"], row["reward"]) for row in completions(tmp_path / name, step))
            for name in ("one", "two")
        ]
        assert as_set[0] == as_set[1]
    assert "step    1" in text and text.count("step    1") == 1  # only rank 0 speaks
    accuracy = [json.loads((tmp_path / name / "summary.json").read_text())["accuracy"] for name in ("one", "two")]
    assert accuracy[0] == accuracy[1] and accuracy[0].keys() == {"before", "after"}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of a run that leaves every file that it can."""
    output = tmp_path_factory.mktemp("whole") / "run"
    settings = (
        f"--rl_config.eval_dataset_file={data / 'held_out.mindrecord'}",
        "--rl_config.tensorboard=true",
        "--monitor_config.plots=true",
        "--rl_config.save_ckpt_interval=1",
        "--rl_config.save_max_ckpt_num=2",
        "--profiler_config.enabled=true",
    )
    result = single(data, output, *settings)
    assert result.returncode == 0, result.stderr
    return output


METRICS = {
    *("step", "epoch", "loss/total", "loss/policy", "loss/kl"),
    *("policy/entropy", "policy/grad_norm", "policy/lr", "policy/clip_low", "policy/clip_high", "policy/ratio_max"),
    *("reward/mean", "reward/std", "reward/max", "reward/min", "reward/zero_std_groups"),
    *("reward/verifiers_for_runs.length_modulo/mean", "reward/format_reward/mean"),
    *(f"reward/outcome/{name}" for name in ("correct", "wrong", "unparsed", "error", "timeout")),
    *("completion/mean_tokens", "completion/max_tokens", "completion/min_tokens", "completion/truncated"),
    *("prompt/mean_tokens", "rollout/logprob_diff_mean", "rollout/logprob_diff_max"),
    *(f"time_s/{name}" for name in ("step", "generate", "reward", "reference", "update", "reshard", "swap")),
    *("speed/generated_tokens_per_s", "speed/trained_tokens_per_s"),
    *("reshard/bytes", "reshard/lower_bound_bytes", "reshard/gb_per_s", "swap/bytes"),
    *("memory/rss_gb", "memory/peak_rss_gb"),
    *(f"health/{check.name}" for check in CHECKS),
    *("health/failing", "health/max_weight", "health/taught_share"),
}


def test_metrics_of_a_run(whole):
    rows = metrics(whole)
    assert [row["step"] for row in rows] == [1, 2, 3] and not any(METRICS - row.keys() for row in rows)
    (before,) = [row for row in read_jsonl(whole / "metrics.jsonl") if row["step"] == 0]
    assert before.keys() == {"step", "eval/accuracy", "eval/low", "eval/high"}
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert all(row["rollout/logprob_diff_max"] < 1e-4 and row["rollout/sampling_gap_mean"] < 1e-6 for row in rows)
    glossary = (ROOT / "docs/metrics.md").read_text()
    of_verifiers = {"reward/verifiers_for_runs.length_modulo/mean", "reward/format_reward/mean"}
    assert all(f"`{key}`" in glossary for key in METRICS - of_verifiers)


def test_files_of_a_run(whole):
    assert {path.name for path in (whole / "checkpoints").iterdir()} == {"step_2", "step_3"}
    plots = {"reward.png", "loss.png", "kl.png", "length.png", "accuracy.png"}
    assert {path.name for path in (whole / "plots").iterdir()} == plots
    assert list((whole / "tensorboard").iterdir()) and (whole / "profile/rank_0.pstats").is_file()
    rows = completions(whole, 2)
    expected = {"prompt", "completion", "gold", "rewards", "outcome", "tokens", "finish_reason", "group"}
    assert len(rows) == 16 and all(expected <= row.keys() for row in rows)
    summary = json.loads((whole / "summary.json").read_text())
    expected = {"accuracy", "health", "steps", "seconds", "seed", "versions", "git_commit", "config"}
    assert expected <= summary.keys() and summary["steps"] == 3


def test_the_tokenizer_stays_with_what_a_run_wrote(data, whole, tmp_path):
    where = ("--src_checkpoint", whole / "checkpoints/step_3", "--dst_checkpoint", tmp_path / "from_step")
    assert run_python("tools/transform_checkpoint.py", *where, "--dst_strategy", "full").returncode == 0
    for folder in (tmp_path / "from_step", whole / "hf"):
        assert Tokenizer(str(folder)).fingerprint() == Tokenizer(str(data / "model")).fingerprint()


def test_transformers_loads_the_result_and_scores_as_the_tool_does(whole, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    row = completions(whole, 2)[0]
    text = {"prompt": row["prompt"], "completion": row["completion"]}
    rows, output = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
    rows.write_text(json.dumps(text) + "\n")
    command = ("tools/score.py", "--model", whole / "hf", "--input", rows, "--output", output)
    assert run_python(*command).returncode == 0
    (scored,) = read_jsonl(output)
    model = AutoModelForCausalLM.from_pretrained(whole / "hf", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(whole / "hf")
    prompt, completion = (
        tokenizer(text[name], add_special_tokens=False)["input_ids"] for name in ("prompt", "completion")
    )
    assert scored["token_ids"] == completion
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([prompt + completion])).logits[0], -1)
    reference = logprobs[torch.arange(len(prompt) - 1, len(prompt) + len(completion) - 1), torch.tensor(completion)]
    np.testing.assert_allclose(scored["logprobs"], reference.numpy(), atol=1e-4)


def test_resume_is_exact_bit_for_bit_across_an_epoch(data, tmp_path):
    """6 steps in one run equal the last 2 of them in a fresh process, from the checkpoint after the fourth; the fifth
    step ends the first epoch. With what has most to keep: float16's masters and loss scale, the optimizer in parts. (In
    float32: tests/reliability.)
    """
    settings = (
        "--rl_config.max_steps=6",
        "--rl_config.save_ckpt_interval=2",
        "--actor_config.compute_dtype=float16",
        "--actor_config.loss_scale.scale_window=3",
        "--rl_config.swap=true",
        "--actor_config.optimizer.opt_offload=true",
        "--actor_config.optimizer.opt_offload_bucket_mb=1",
        "--actor_config.lr_schedule.lr_decay_style=cosine",
        "--actor_config.lr_schedule.decay_steps=6",
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = single(data, whole, *settings)
    assert result.returncode == 0, result.stderr
    as_it_was_after_step(whole, parts, 4)
    result = single(data, parts, *settings, "--resume_training", "true", is_warm=False)
    assert result.returncode == 0, result.stderr
    assert "resumed after step 4" in result.stdout
    assert without_times(metrics(parts)) == without_times(metrics(whole))
    for step in (5, 6):
        assert completions(parts, step) == completions(whole, step)
    for name in ("hf/model.safetensors", "checkpoints/step_6/rank_00000.safetensors"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_is_not_overwritten_and_not_resumed_under_other_settings(data, baseline, tmp_path):
    shutil.copytree(baseline, tmp_path / "run")
    again = single(data, tmp_path / "run")
    assert again.returncode == 2 and "a run is there already" in again.stderr and "Traceback" not in again.stderr
    changes = ("--rl_config.seed=3", "--rl_config.beta=0.5")
    changed = single(data, tmp_path / "run", "--rl_config.max_steps=6", "--resume_training", "true", *changes)
    assert changed.returncode == 2 and "rl_config.seed was 0, is 3" in changed.stderr
    assert "rl_config.beta was 0.001, is 0.5" in changed.stderr


def test_an_error_of_any_rank_reaches_the_console_with_its_rank(data, tmp_path):
    (tmp_path / "broken_verifier.py").write_text(
        "import os\n"
        "def reward(completion, gold):\n"
        "    return 1.0\n"
        "if os.environ.get('RANK_ID') == '1' and os.environ.get('MS_ROLE') and 'worker' in str(os.sys.argv):\n"
        "    raise RuntimeError('rank one cannot import this')\n"
    )
    code, text, logs = msrun(
        2, data, tmp_path / "run", "--verifier_function", "broken_verifier.reward", "--verifier_weight", "1.0"
    )
    assert code != 0
    assert "error: rank 1: " in text + logs and "rank one cannot import this" in text + logs


def test_a_run_without_reference_and_with_filters(data, tmp_path):
    settings = (
        "--rl_config.beta=0",
        "--rl_config.max_steps=2",
        "--generate_config.sampling_config.top_p=0.9",
        "--generate_config.sampling_config.temperature=0.8",
        "--rl_config.advantage=dr_grpo",
        "--rl_config.loss_aggregation=constant",
    )
    result = single(data, tmp_path / "run", *settings)
    assert result.returncode == 0, result.stderr
    assert len(metrics(tmp_path / "run")) == 2 and "rollout_is_cap" in result.stdout
    assert all(
        row["rollout/sampling_gap_mean"] > 0.01 and row["rollout/logprob_diff_max"] < 1e-4
        for row in metrics(tmp_path / "run")
    )
    # no reference: its phase was never entered
    assert all(row["loss/kl"] == 0 == row.get("time_s/reference", 0) for row in metrics(tmp_path / "run"))


def test_vllm_on_two_tensor_ranks_generates_what_one_native_rank_does(data, baseline, tmp_path):
    """use_vllm under msrun, tensor parallel, with swapping: the KV cache and the weights come and go, the tokens
    stay.
    """
    pytest.importorskip("vllm", reason="needs vLLM: bash build.sh --vllm")
    settings = (
        "--generate_config.use_vllm=1",
        "--generate_config.parallel_config.model_parallel=2",
        "--rl_config.max_steps=2",
        f"--rl_config.eval_dataset_file={data / 'held_out.mindrecord'}",
        "--rl_config.swap=true",
        "--rl_config.reshard_mem_opt_level=1",
    )
    output = tmp_path / "vllm"
    code, text, logs = msrun(2, data, output, *settings)
    assert code == 0, text[-4000:] + logs[-4000:]
    for step in (1, 2):
        native, by_vllm = (
            sorted((row["prompt"], row["completion"], row["reward"]) for row in completions(folder, step))
            for folder in (baseline, output)
        )
        assert native == by_vllm
    for a, b in zip(metrics(baseline)[:2], metrics(output), strict=True):
        for key in EXACT:
            assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-7), (a["step"], key)
        assert b["rollout/logprob_diff_max"] < 1e-4
    native, by_vllm = (json.loads((run / "summary.json").read_text())["accuracy"] for run in (baseline, output))
    assert by_vllm["before"] == native["before"] and by_vllm["after"] == native["step_2"]
