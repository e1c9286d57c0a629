"""A run that records everything: experience that replays bit for bit, dumps, traces, .ckpt checkpoints, its folders."""

import json
import re
import resource
import subprocess
import sys

import pytest
from distributed.jobs import VERIFIERS, start_msrun
from distributed.small_runs import MAIN, arguments, single
from helpers import ROOT, clean_environment, read_jsonl, run, run_python

from mindrlhf_lite.data.experience_file import read_experience, read_texts

# several updates a step, so that the policy before them is recorded too; parts of groups
SETTINGS = (
    "--rl_config.batch_size=4",
    "--rl_config.num_generations=3",
    "--generate_config.sampling_config.temperature=0.9",
)


@pytest.fixture(scope="module")
def recorded(data):
    folder = data.parent / "recorded"
    result = single(
        data,
        folder,
        *SETTINGS,
        "--rl_config.max_steps=2",
        "--rl_config.save_ckpt_interval=1",
        "--rl_config.save_ckpt_format=ckpt",
        f"--rl_config.save_data_file={folder}/experience/run.mindrecord",
        f"--rl_config.save_strategy_dir={folder}/strategy",
        f"--rl_config.save_prompt_completions_dir={folder}/texts",
        "--rl_config.tensorboard=true",
        f"--rl_config.tensorboard_dir={folder}/board",
        "--rl_config.performance_stats=true",
        "--msprobe_config.msprobe=true",
        "--profiler_config.profile=true",
        "--profiler_config.profile_step_start=2",
        "--monitor_config.host_monitor_interval=0.2",
        "--actor_config.recompute_config.select_recompute=true",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, result.stdout


def replay(data, output, *extra, steps="*"):
    """Without the file of prompts and the verifiers."""
    settings = [str(each) for each in arguments(data, output, *SETTINGS, *extra)]
    place = settings.index("--dataset_file")
    del settings[place : place + 2]
    files = sorted(str(path) for path in (data.parent / "recorded/experience").glob(f"run_{steps}.mindrecord"))
    return run_python("tools/replay.py", "--data", *reversed(files), *settings)


@pytest.fixture(scope="module")
def again(data, recorded):
    """The folder of a replay that writes dumps, too."""
    folder = data.parent / "again"
    result = replay(data, folder, "--rl_config.max_steps=2", "--msprobe_config.msprobe=true")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_a_replay_makes_exactly_the_same_updates(data, recorded, again):
    ours, theirs = (read_jsonl(data.parent / name / "metrics.jsonl") for name in ("again", "recorded"))
    for a, b in zip(ours, theirs, strict=True):
        for key in ("loss/total", "policy/grad_norm", "loss/kl", "policy/lr"):
            assert a[key] == b[key], key
    assert b["policy/grad_norm"] > 0
    weights = [(data.parent / name / "hf/model.safetensors").read_bytes() for name in ("again", "recorded")]
    assert weights[0] == weights[1]


def test_a_replay_goes_on_from_a_checkpoint(data, recorded):
    """The second step alone, from the weights and moments of a .ckpt after the first."""
    folder, _ = recorded
    store = data.parent / "first_only"
    store.mkdir()
    (store / "step_1").symlink_to(folder / "checkpoints/step_1")
    result = replay(
        data, data.parent / "second", "--rl_config.max_steps=2", f"--actor_config.save={store}", "--resume_training"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "resumed after step 1" in result.stdout and [
        row["step"] for row in read_jsonl(data.parent / "second/metrics.jsonl")
    ] == [2]
    weights = [(data.parent / name / "hf/model.safetensors").read_bytes() for name in ("second", "recorded")]
    assert weights[0] == weights[1]


def test_a_replay_that_is_not_the_runs_own_says_so(data, recorded):
    """The second step from the first weights, at another learning rate; and nothing is written over a run."""
    rate = "--actor_config.lr_schedule.lr=0.001"
    result = replay(data, data.parent / "another", "--rl_config.save_hf_model=false", rate, steps="000002")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "note: step 2 is the first, and the optimizer has made the updates of 0 step(s): not the run's own" in (
        result.stdout
    )
    assert re.search(
        r"settings that the recorded run did not have:\n  - actor_config.lr_schedule.lr was", result.stdout
    )
    folder, _ = recorded
    before = (folder / "metrics.jsonl").read_bytes()
    for more in ((), ("--resume_training",)):
        result = replay(data, folder, *more)
        assert result.returncode == 2 and "a run is there already; give another folder" in result.stderr
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_two_data_parallel_ranks_replay_the_same_run(data, recorded, tmp_path):
    """Updates of four completions, groups of three: ranks get parts of groups."""
    settings = [str(each) for each in arguments(data, tmp_path / "two", *SETTINGS, "--rl_config.max_steps=2")]
    files = sorted(str(path) for path in (data.parent / "recorded/experience").glob("run_*.mindrecord"))
    script = ROOT / "tools/replay.py"
    code, text, logs = start_msrun(2, tmp_path / "log", script, "--data", *files, *settings, timeout=300)
    assert code == 0, text[-3000:] + logs[-3000:]
    ours, theirs = (read_jsonl(folder / "metrics.jsonl") for folder in (tmp_path / "two", data.parent / "recorded"))
    for a, b in zip(ours, theirs, strict=True):
        for key in ("loss/total", "policy/grad_norm", "loss/kl", "policy/entropy"):
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-5), key


def test_experience_is_whole(recorded):
    folder, _ = recorded
    step = read_experience(folder / "experience/run_000001.mindrecord")
    assert len(step.sequences) == len(step.engine_logprobs) == 12 and step.header.step == 1
    assert step.sequences[0].frozen_logprobs is not None and step.sequences[0].reference_logprobs is not None
    rows = read_jsonl(folder / "texts/step_000001.jsonl")
    assert [row["completion"] for row in rows] == [
        row["completion"] for row in read_texts(folder / "experience/run_000001.mindrecord")
    ]
    assert [len(each.mask) for each in step.sequences] == [row["tokens"] for row in rows]


def test_a_broken_file_is_said(data, recorded, tmp_path):
    folder, _ = recorded
    source = folder / "experience/run_000001.mindrecord"
    for name in (source.name, source.name + ".db"):
        (tmp_path / name).write_bytes((folder / "experience" / name).read_bytes())
    broken = tmp_path / source.name
    broken.write_bytes(broken.read_bytes()[:-100])
    result = run_python("tools/replay.py", "--data", broken, *arguments(data, tmp_path / "out"), PYTHONPATH=VERIFIERS)
    assert result.returncode == 2 and "experience file" in result.stderr and "Traceback" not in result.stderr, (
        result.stderr
    )
    missing = run_python("tools/replay.py", "--data", tmp_path / "none.mindrecord", *arguments(data, tmp_path / "out"))
    assert missing.returncode == 2 and "no such file" in missing.stderr


def test_dumps_of_both_runs_are_the_same(recorded, again):
    folder, _ = recorded
    found = run_python("tools/compare_dumps.py", folder / "dump", again / "dump", "--tolerance", 0)
    assert found.returncode == 0 and "they are equal within 0" in found.stdout, found.stdout + found.stderr
    assert "gradient: " in found.stdout and "activation: " in found.stdout
    assert json.loads((folder / "dump/configurations.json").read_text())["config"]["rl_config"]["batch_size"] == 4


def test_a_dump_agrees_with_hugging_face(data, recorded):
    pytest.importorskip("torch", reason="needs torch: bash build.sh --test")
    folder, _ = recorded
    found = run_python(
        "tools/compare_dumps.py", folder / "dump", "--hf", data / "model", "--tolerance", 1e-4, is_warm=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "weight: 14 compared, 14 with the same bits" in found.stdout, found.stdout
    later = run_python("tools/compare_dumps.py", folder / "dump", "--hf", data / "model", "--step", 2, is_warm=False)
    assert later.returncode == 1 and "they part first at step 2, weight" in later.stdout


def test_files_where_they_were_asked_for(recorded):
    folder, said = recorded
    assert {path.name for path in (folder / "strategy").iterdir()} == {"actor.json", "reference.json", "rollout.json"}
    assert list((folder / "board").glob("events*")) and not (folder / "tensorboard").exists()
    assert (folder / "checkpoints/step_2/rank_00000.ckpt").is_file()
    (trace,) = (folder / "profiler/rank_0").rglob("trace_view.json")
    events = json.loads(trace.read_text())
    assert sum("MatMul" in event["name"] or "Custom" in event["name"] for event in events) > 10
    assert "generated" in said and "trained" in said and "memory" in said
    assert all(row["host/memory_used_gb"] > 0 for row in read_jsonl(folder / "metrics.jsonl") if row["step"])


def test_memory_protection_ends_a_run_with_a_checkpoint(data):
    """In 200 GiB of address space, of which a run takes more than a hundredth, and never half."""
    output, limit = data.parent / "protected", 200 << 30
    command = [sys.executable, MAIN, *arguments(data, output, "--monitor_config.host_memory_protection=true")]
    result = subprocess.run(
        [*map(str, command), "--monitor_config.host_max_memory_threshold=0.01"],
        capture_output=True,
        text=True,
        timeout=300,
        env=clean_environment(PYTHONPATH=VERIFIERS),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert result.returncode == 1 and "are in use, over monitor_config.host_max_memory_threshold=0.01" in result.stderr
    assert "after step 1; the newest checkpoint is after step 1; go on with:" in result.stdout, result.stdout
    assert (output / "checkpoints/step_1/state.json").is_file() and "Traceback" not in result.stderr


def test_scripts_take_the_variables_of_mindrlhfs_users(data, tmp_path):
    """On one rank; its log is where they look for it."""
    settings = [str(each) for each in arguments(data, tmp_path / "run", "--rl_config.max_steps=1")]
    kept = [each for each in settings if each.startswith("--") and "=" in each]
    result = run(
        ["bash", ROOT / "examples/qwen_grpo/run_grpo.sh", *kept, "--rl_config.save_ckpt_interval=1"],
        QWEN_MODEL_PATH=str(data / "model"),
        DATASET_FILE=str(data / "train.mindrecord"),
        SAVE_CHECKPOINT_DIR=str(tmp_path / "checkpoints"),
        CONFIG=str(ROOT / "examples/quickstart/grpo_config.yaml"),
        LOG_DIR=str(tmp_path / "logs"),
        RANKS="1",
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert (tmp_path / "checkpoints/step_1/state.json").is_file()
    assert "step    1 | reward" in (tmp_path / "logs/worker_0.log").read_text()
