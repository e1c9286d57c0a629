"""A pretrained model, SmolLM2-135M-Instruct, through everything: layouts that fit its 9 and 3 heads, vLLM, swapping,
kill -9, checkpoints, exports, tools.

Its rounding leaves some of the gradient's smallest entries without a sign that layouts agree on; so Adam's eps is as in
test_layouts.py.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from distributed.jobs import start_msrun
from distributed.small_runs import MAIN, completions, kill_once_there, metrics, without_times
from helpers import ROOT, clean_environment, read_jsonl, run, run_python

from mindrlhf_lite.models.hf_weights import load_weights
from mindrlhf_lite.shapes.model_config import ModelConfig

pytestmark = pytest.mark.full
NEAR = 1e-4
LAYOUTS = {
    "tp3": (
        3,
        {"actor_config": (1, 3, 1), "ref_config": (3, 1, 1), "generate_config": (3, 1, 1)},
        ("--rl_config.swap=true",),
    ),
    "pp2_dp2": (
        4,
        {"actor_config": (2, 1, 2), "ref_config": (4, 1, 1), "generate_config": (4, 1, 1)},
        ("--actor_config.enable_parallel_optimizer=true",),
    ),
    "rollout_tp3": (
        3,
        {"actor_config": (3, 1, 1), "ref_config": (1, 3, 1), "generate_config": (1, 3, 1)},
        ("--rl_config.reshard_transport=collective",),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, smollm2):
    """Sums of examples/smollm2 as training and held-out data; 12 prompts a step, which 3 and 4 ranks share evenly."""
    folder = tmp_path_factory.mktemp("smollm2")
    assert run_python("examples/smollm2/make_sums.py", folder).returncode == 0
    for split, rows in (("train", 48), ("held_out", 12)):
        settings = (
            "--file_path",
            folder / f"{split}.jsonl",
            "--prompt_type",
            ROOT / "examples/smollm2/templates.yaml:sums",
            "--sample",
            rows,
        )
        lengths = ("--max_prompt_length", 25, "--seq_length", 37, "--output_path", folder / f"{split}.mindrecord")
        made = run_python(
            "tools/rlhf_data.py", "--tokenizer_dir", smollm2, "--dataset_type", "arithmetic", *settings, *lengths
        )
        assert made.returncode == 0, made.stderr
    return folder


def arguments(folder, smollm2, name, *extra):
    return [
        *(
            "--config",
            ROOT / "examples/smollm2/grpo_config.yaml",
            "--actor_checkpoint_path",
            smollm2,
            "--dataset_file",
            folder / "train.mindrecord",
        ),
        *(
            f"--rl_config.output_dir={folder / name}",
            f"--rl_config.eval_dataset_file={folder / 'held_out.mindrecord'}",
            "--rl_config.eval_interval=0",
        ),
        *(
            "--rl_config.chunk_size=12",
            "--rl_config.num_generations=2",
            "--generate_config.max_num_seqs=24",
            "--rl_config.max_steps=2",
        ),
        *(
            "--rl_config.beta=0.04",
            "--rl_config.save_ckpt_interval=1",
            "--rl_config.save_max_ckpt_num=2",
            "--actor_config.optimizer.eps=1e-5",
        ),
        *("--rl_config.tensorboard=false", "--monitor_config.progress_bar=false", "--context.num_threads=1", *extra),
    ]


@pytest.fixture(scope="module")
def one(folder, smollm2):
    result = run([sys.executable, MAIN, *arguments(folder, smollm2, "one")], timeout=1800)
    assert result.returncode == 0, result.stderr
    return folder / "one"


def by_prompt(rows):
    return sorted((row["prompt"], row["completion"], row["reward"]) for row in rows)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_give_the_run_of_one_rank(folder, smollm2, one, name):
    """Sampled tokens, losses, gradient norms, evaluation, weights; every reshard moves as many bytes as it must."""
    ranks, degrees, extra = LAYOUTS[name]
    keys = ("data_parallel", "model_parallel", "pipeline_stage")
    layout = [
        f"--{role}.parallel_config.{key}={degree}"
        for role, of_role in degrees.items()
        for key, degree in zip(keys, of_role, strict=True)
    ]
    command = arguments(folder, smollm2, name, *layout, *extra, "--rl_config.reshard_check_interval=1")
    code, text, logs = start_msrun(ranks, folder / f"{name}_log", MAIN, *command, timeout=2400)
    assert code == 0, text[-4000:] + logs[-4000:]
    for step, (ours, theirs) in enumerate(zip(metrics(folder / name), metrics(one), strict=True), 1):
        assert by_prompt(completions(folder / name, step)) == by_prompt(completions(one, step))
        for key in ("loss/total", "loss/kl", "policy/grad_norm", "policy/entropy", "reward/mean"):
            assert ours[key] == pytest.approx(theirs[key], rel=NEAR, abs=NEAR / 10), (step, key)
        assert ours["rollout/logprob_diff_max"] < 1e-3 and ours["reshard/bytes"] == ours["reshard/lower_bound_bytes"]
    evaluations = [
        [(row["prompt"], row["completions"][0]["text"]) for row in read_jsonl(run / "completions/eval_000000.jsonl")]
        for run in (folder / name, one)
    ]
    assert evaluations[0] == evaluations[1]
    config = ModelConfig.from_dir(smollm2)
    start, ours, theirs = (load_weights(path, config) for path in (smollm2, folder / name / "hf", one / "hf"))
    wrong = {
        tensor: np.linalg.norm(ours[tensor] - theirs[tensor]) / np.linalg.norm(theirs[tensor] - start[tensor])
        for tensor in theirs
    }
    print(f"{name}: changes of weights differ by {max(wrong.values()):.1e} at most")
    assert max(wrong.values()) < 1e-2
    where = (
        "--src_checkpoint",
        folder / name / "checkpoints/step_2",
        "--dst_checkpoint",
        folder / f"{name}_full",
        "--dst_strategy",
        "full",
    )
    assert run_python("tools/transform_checkpoint.py", *where).returncode == 0
    assert_equal_weights(load_weights(folder / f"{name}_full", config), ours)


def assert_equal_weights(found, expected):
    assert found.keys() == expected.keys() and all((found[name] == expected[name]).all() for name in expected)


def test_vllm_gives_the_same_greedy_tokens(folder, smollm2, one):
    pytest.importorskip("vllm", reason="needs vLLM: bash build.sh --vllm")
    result = run(
        [sys.executable, MAIN, *arguments(folder, smollm2, "vllm", "--generate_config.use_vllm=1")], timeout=2400
    )
    assert result.returncode == 0, result.stderr[-4000:]
    for evaluation in ("eval_000000.jsonl", "eval_000002.jsonl"):
        ours, theirs = (read_jsonl(path / "completions" / evaluation) for path in (folder / "vllm", one))
        assert [row["completions"][0]["text"] for row in ours] == [row["completions"][0]["text"] for row in theirs]
    assert all(row["rollout/logprob_diff_max"] < 1e-3 for row in metrics(folder / "vllm"))


def test_a_killed_run_ends_as_if_nothing_had_been(folder, smollm2, one):
    command = [str(word) for word in (sys.executable, MAIN, *arguments(folder, smollm2, "killed"))]
    kill_once_there(command, folder / "killed/checkpoints/step_1", seconds=1800)
    result = run([*command, "--resume_training", "true"], timeout=1800)
    assert result.returncode == 0 and "resumed after step 1" in result.stdout, result.stderr
    assert without_times(metrics(folder / "killed")) == without_times(metrics(one))
    assert (folder / "killed/hf/model.safetensors").read_bytes() == (one / "hf/model.safetensors").read_bytes()


def test_to_mindformers_and_back(folder, smollm2):
    there = run_python("tools/convert_weight.py", "--input_path", smollm2, "--output_path", folder / "smollm2.ckpt")
    back = run_python(
        "tools/convert_weight.py",
        "--input_path",
        folder / "smollm2.ckpt",
        "--config_path",
        smollm2,
        "--output_path",
        folder / "back",
    )
    assert there.returncode == back.returncode == 0, there.stderr + back.stderr
    config = ModelConfig.from_dir(smollm2)
    assert_equal_weights(load_weights(folder / "back", config), load_weights(smollm2, config))


def test_tools(folder, smollm2, one):
    held_out = ("--dataset", folder / "held_out.mindrecord", "--max_tokens", 12)
    evaluated = run_python(
        "tools/evaluate.py", "--model", smollm2, *held_out, "--output", folder / "evaluated.json", timeout=600
    )
    assert evaluated.returncode == 0, evaluated.stderr
    before = json.loads((one / "summary.json").read_text())["accuracy"]["before"]["accuracy"]
    assert json.loads((folder / "evaluated.json").read_text())["accuracy"] == before
    command = [
        sys.executable,
        "tools/generate.py",
        "--model",
        smollm2,
        "--chat",
        "--temperature",
        "0",
        "--max_tokens",
        "16",
        "--max_length",
        "128",
    ]
    question = "What is the capital of France?\n"
    chat = subprocess.run(
        [str(word) for word in command],
        input=question,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=clean_environment(),
        timeout=600,
    )
    assert chat.returncode == 0 and "Paris" in chat.stdout, chat.stdout + chat.stderr
    assert run_python("tools/plot_run.py", one).returncode == 0 and (one / "plots/accuracy.png").is_file()
    assert (
        run_python("tools/lab_report.py", one, folder / "killed", "--output", folder / "lab").returncode == 0
        and (folder / "lab/report.html").is_file()
    )
