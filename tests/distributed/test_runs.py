"""Whole runs under real msrun jobs: layout invariance, exact resume, errors of any rank, files."""

import json
import os
import sys

import numpy as np
import pytest
from distributed.small_runs import (
    EXACT,
    MAIN,
    arguments,
    completions,
    kill_once_there,
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


def test_files_of_a_run(data, tmp_path):
    held_out = f"--rl_config.eval_dataset_file={data / 'held_out.mindrecord'}"
    result = single(
        data,
        tmp_path / "run",
        held_out,
        "--rl_config.tensorboard=true",
        "--monitor_config.plots=true",
        "--rl_config.save_ckpt_interval=1",
        "--rl_config.save_max_ckpt_num=2",
        "--profiler_config.enabled=true",
    )
    assert result.returncode == 0, result.stderr
    output = tmp_path / "run"
    rows = metrics(output)
    expected = {
        "step",
        "epoch",
        "loss/total",
        "loss/policy",
        "loss/kl",
        "policy/entropy",
        "policy/grad_norm",
        "policy/lr",
        "policy/clip_low",
        "policy/clip_high",
        "policy/ratio_max",
        "reward/mean",
        "reward/std",
        "reward/max",
        "reward/min",
        "reward/zero_std_groups",
        "reward/verifiers_for_runs.length_modulo/mean",
        "reward/format_reward/mean",
        *(f"reward/outcome/{name}" for name in ("correct", "wrong", "unparsed", "error", "timeout")),
        "completion/mean_tokens",
        "completion/max_tokens",
        "completion/min_tokens",
        "completion/truncated",
        "prompt/mean_tokens",
        "rollout/logprob_diff_mean",
        "rollout/logprob_diff_max",
        *(f"time_s/{name}" for name in ("step", "generate", "reward", "reference", "update", "reshard", "swap")),
        "speed/generated_tokens_per_s",
        "speed/trained_tokens_per_s",
        "reshard/bytes",
        "reshard/lower_bound_bytes",
        "reshard/gb_per_s",
        "swap/bytes",
        "memory/rss_gb",
        "memory/peak_rss_gb",
        *(f"health/{check.name}" for check in CHECKS),
        *("health/failing", "health/max_weight", "health/taught_share"),
    }
    assert [row["step"] for row in rows] == [1, 2, 3] and all(expected <= row.keys() for row in rows)
    (before,) = [row for row in read_jsonl(output / "metrics.jsonl") if row["step"] == 0]
    assert before.keys() == {"step", "eval/accuracy", "eval/low", "eval/high"}
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert all(row["rollout/logprob_diff_max"] < 1e-4 and row["rollout/sampling_gap_mean"] < 1e-6 for row in rows)
    glossary = (ROOT / "docs/metrics.md").read_text()
    assert all(
        f"`{key}`" in glossary
        for key in expected
        if not key.endswith("_modulo/mean") and key != "reward/format_reward/mean"
    )
    assert {path.name for path in (output / "checkpoints").iterdir()} == {"step_2", "step_3"}
    assert {path.name for path in (output / "plots").iterdir()} == {
        "reward.png",
        "loss.png",
        "kl.png",
        "length.png",
        "accuracy.png",
    }
    assert list((output / "tensorboard").iterdir()) and (output / "profile/rank_0.pstats").is_file()
    where = (
        "--src_checkpoint",
        output / "checkpoints/step_3",
        "--dst_checkpoint",
        tmp_path / "from_step",
        "--dst_strategy",
        "full",
    )
    assert run_python("tools/transform_checkpoint.py", *where).returncode == 0
    for folder in (tmp_path / "from_step", output / "hf"):
        assert Tokenizer(str(folder)).fingerprint() == Tokenizer(str(data / "model")).fingerprint()
    row = completions(output, 2)[0]
    assert {
        "prompt",
        "completion",
        "gold",
        "rewards",
        "outcome",
        "tokens",
        "finish_reason",
        "group",
    } <= row.keys() and len(completions(output, 2)) == 16
    summary = json.loads((output / "summary.json").read_text())
    assert {
        "accuracy",
        "health",
        "steps",
        "seconds",
        "seed",
        "versions",
        "git_commit",
        "config",
    } <= summary.keys() and summary["steps"] == 3
    # transformers loads the result and scores a completion as tools/score.py does
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = {"prompt": row["prompt"], "completion": row["completion"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(text) + "\n")
    assert (
        run_python(
            "tools/score.py",
            "--model",
            output / "hf",
            "--input",
            tmp_path / "rows.jsonl",
            "--output",
            tmp_path / "scored.jsonl",
        ).returncode
        == 0
    )
    (scored,) = read_jsonl(tmp_path / "scored.jsonl")
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(output / "hf", dtype=torch.float32),
        AutoTokenizer.from_pretrained(output / "hf"),
    )
    prompt, completion = (
        tokenizer(text[name], add_special_tokens=False)["input_ids"] for name in ("prompt", "completion")
    )
    assert scored["token_ids"] == completion
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([prompt + completion])).logits[0], -1)
    reference = logprobs[torch.arange(len(prompt) - 1, len(prompt) + len(completion) - 1), torch.tensor(completion)]
    np.testing.assert_allclose(scored["logprobs"], reference.numpy(), atol=1e-4)


def test_resume_is_exact_bit_for_bit_across_an_epoch(data, tmp_path):
    """6 steps in one run equal 4 steps, a fresh process, and 2 more; the fifth step ends the first epoch. With what has
    most to keep: float16's masters and loss scale, the optimizer in parts. (In float32: tests/reliability.)
    """
    settings = (
        "--rl_config.save_ckpt_interval=2",
        "--actor_config.compute_dtype=float16",
        "--actor_config.loss_scale.scale_window=3",
        "--rl_config.swap=true",
        "--actor_config.optimizer.opt_offload=true",
        "--actor_config.optimizer.opt_offload_bucket_mb=1",
        "--actor_config.lr_schedule.lr_decay_style=cosine",
        "--actor_config.lr_schedule.decay_steps=6",
    )
    for name, steps, extra in (("whole", 6, ()), ("parts", 4, ()), ("parts", 6, ("--resume_training", "true"))):
        limit = f"--rl_config.max_steps={steps}"
        result = single(data, tmp_path / name, limit, *settings, *extra, is_warm=not extra)
        assert result.returncode == 0, result.stderr
    assert "resumed after step 4" in result.stdout
    assert without_times(metrics(tmp_path / "parts")) == without_times(metrics(tmp_path / "whole"))
    for step in (5, 6):
        assert completions(tmp_path / "parts", step) == completions(tmp_path / "whole", step)
    for name in ("hf/model.safetensors", "checkpoints/step_6/rank_00000.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_resume_under_another_strategy(data, tmp_path):
    """Two steps on one rank, the third on two tensor-parallel ranks with swapping, equal three on one rank."""
    settings = ("--rl_config.save_ckpt_interval=2", "--actor_config.lr_schedule.decay_steps=3")
    assert single(data, tmp_path / "whole", *settings).returncode == 0
    assert single(data, tmp_path / "parts", *settings, "--rl_config.max_steps=2").returncode == 0
    tensor = [f"--{role}.parallel_config.model_parallel=2" for role in ("actor_config", "ref_config")]
    swap = ("--rl_config.swap=true", "--rl_config.reshard_mem_opt_level=1")
    code, text, logs = msrun(2, data, tmp_path / "parts", *settings, *tensor, *swap, "--resume_training", "true")
    assert code == 0, text + logs
    assert "resumed after step 2" in text and "under other parallel strategies" in text
    for a, b in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "parts"), strict=True):
        for key in EXACT:
            assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-7), (a["step"], key)
    assert metrics(tmp_path / "parts")[2]["swap/bytes"] > 0
    assert not any((tmp_path / "parts/swap").iterdir())  # spill files have no name


def test_resume_after_kill_9_and_damage(data, tmp_path):
    output = tmp_path / "run"
    command = [
        sys.executable,
        str(MAIN),
        *map(
            str,
            arguments(
                data,
                output,
                "--rl_config.max_steps=400",
                "--rl_config.save_ckpt_interval=1",
                "--rl_config.save_max_ckpt_num=3",
            ),
        ),
    ]
    kill_once_there(command, output / "checkpoints/step_4", seconds=200)
    newest = max(int(path.name[5:]) for path in (output / "checkpoints").glob("step_*"))
    with (output / f"checkpoints/step_{newest}/rank_00000.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    result = single(
        data,
        output,
        "--rl_config.max_steps=" + str(newest + 1),
        "--rl_config.save_ckpt_interval=1",
        "--resume_training",
        "true",
    )
    assert result.returncode == 0, result.stderr
    assert f"step_{newest} is damaged: " in result.stdout and f"resumed after step {newest - 1}" in result.stdout
    assert [row["step"] for row in metrics(output)] == list(range(1, newest + 2))


def test_a_run_is_not_overwritten_and_not_resumed_under_other_settings(data, tmp_path):
    assert single(data, tmp_path / "run", "--rl_config.max_steps=1", "--rl_config.save_ckpt_interval=1").returncode == 0
    again = single(data, tmp_path / "run")
    assert again.returncode == 2 and "a run is there already" in again.stderr and "Traceback" not in again.stderr
    changed = single(data, tmp_path / "run", "--resume_training", "true", "--rl_config.seed=3", "--rl_config.beta=0.5")
    assert (
        changed.returncode == 2
        and "rl_config.seed was 0, is 3" in changed.stderr
        and "rl_config.beta was 0.001, is 0.5" in changed.stderr
    )


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


def test_one_rank_under_msrun_without_reference_and_with_filters(data, tmp_path):
    settings = (
        "--rl_config.beta=0",
        "--rl_config.max_steps=2",
        "--generate_config.sampling_config.top_p=0.9",
        "--generate_config.sampling_config.temperature=0.8",
        "--rl_config.advantage=dr_grpo",
        "--rl_config.loss_aggregation=constant",
    )
    code, text, logs = msrun(1, data, tmp_path / "run", *settings)
    assert code == 0, text + logs
    assert len(metrics(tmp_path / "run")) == 2 and "rollout_is_cap" in text
    assert all(
        row["rollout/sampling_gap_mean"] > 0.01 and row["rollout/logprob_diff_max"] < 1e-4
        for row in metrics(tmp_path / "run")
    )
    assert all(row["loss/kl"] == 0 and row["time_s/reference"] < 0.1 for row in metrics(tmp_path / "run"))


def test_vllm_on_two_tensor_ranks_generates_what_one_native_rank_does(data, tmp_path):
    """use_vllm under msrun, tensor parallel, with swapping: the KV cache and the weights come and go, the tokens
    stay.
    """
    pytest.importorskip("vllm", reason="needs vLLM: bash build.sh --vllm")
    held_out = f"--rl_config.eval_dataset_file={data / 'held_out.mindrecord'}"
    one = single(data, tmp_path / "native", "--rl_config.max_steps=2", held_out)
    assert one.returncode == 0, one.stderr
    settings = (
        "--generate_config.use_vllm=1",
        "--generate_config.parallel_config.model_parallel=2",
        "--rl_config.max_steps=2",
        held_out,
    )
    code, text, logs = msrun(
        2, data, tmp_path / "vllm", *settings, "--rl_config.swap=true", "--rl_config.reshard_mem_opt_level=1"
    )
    assert code == 0, text[-4000:] + logs[-4000:]
    for step in (1, 2):
        as_set = [
            sorted((row["prompt"], row["completion"], row["reward"]) for row in completions(tmp_path / name, step))
            for name in ("native", "vllm")
        ]
        assert as_set[0] == as_set[1]
    for a, b in zip(metrics(tmp_path / "native"), metrics(tmp_path / "vllm"), strict=True):
        for key in EXACT:
            assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-7), (a["step"], key)
        assert b["rollout/logprob_diff_max"] < 1e-4
    accuracy = [json.loads((tmp_path / name / "summary.json").read_text())["accuracy"] for name in ("native", "vllm")]
    assert accuracy[0] == accuracy[1]
