"""Whole runs in several turns: the same whenever environments answer, under every layout, resumed and replayed."""

import sys
import time
from pathlib import Path

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

from mindrlhf_lite.data.experience_file import read_experience
from mindrlhf_lite.job.processes import Process

ACTING = ROOT / "tests/episodes/acting.py"


def settings(environment="Echo", **environment_arguments):
    given = ", ".join(f"{name}={value}" for name, value in environment_arguments.items())
    return (
        f"--environment_config.environment={ACTING}:{environment}",
        f"--environment_config.arguments=[{given}]",
        "--environment_config.max_turn_tokens=5",
        "--verifier_function",
        "environment_reward,verifiers_for_runs.length_modulo",
        "--rl_config.save_ckpt_interval=1",
        "--rl_config.save_max_ckpt_num=10",
    )


@pytest.fixture(scope="module")
def at_once(data, tmp_path_factory):
    """A run whose environments answer at once, with its experience."""
    output = tmp_path_factory.mktemp("episodes") / "run"
    held_out = f"--rl_config.eval_dataset_file={data / 'held_out.mindrecord'}"
    recorded = f"--rl_config.save_data_file={output}/experience.mindrecord"
    result = single(data, output, *settings(delay=0), held_out, recorded)
    assert result.returncode == 0, result.stdout + result.stderr
    return output


def texts(output, step):
    return sorted((row["prompt"], row["completion"], row["reward"]) for row in completions(output, step))


def check_equal(one, other):
    """Bit for bit."""
    assert without_times(metrics(one)) == without_times(metrics(other))
    for path in sorted((one / "completions").glob("step_*.jsonl")):
        assert path.read_bytes() == (other / "completions" / path.name).read_bytes()
    weights = [next((folder / "checkpoints/step_3").rglob("*.safetensors")).read_bytes() for folder in (one, other)]
    assert weights[0] == weights[1]


def test_what_a_run_writes(at_once):
    rows = metrics(at_once)
    assert all(row["rollout/logprob_diff_max"] < 1e-4 and row["rollout/sampling_gap_mean"] < 1e-6 for row in rows)
    assert all(row["episode/turns_mean"] > 2 and row["episode/failures"] == 0 for row in rows)
    assert all(row["completion/max_tokens"] <= 15 for row in rows)  # three turns of five; what is read does not count
    assert any(row["policy/grad_norm"] > 0 for row in rows)
    for row in completions(at_once, 1):
        assert [segment["written"] for segment in row["segments"]] == [True, False] * (len(row["turns"]) - 1) + [True]
        assert "".join(segment["text"] for segment in row["segments"]) == row["completion"]
        assert row["rewards"]["environment_reward"] == sum(turn["reward"] for turn in row["turns"])
        assert row["tokens"] == sum(turn["end"] - turn["start"] for turn in row["turns"])
    glossary = (ROOT / "docs/metrics.md").read_text()
    of_episodes = [key for key in rows[0] if key.startswith(("episode/", "time_s/environment"))]
    assert of_episodes and all(f"`{key}`" in glossary for key in of_episodes if "/end/" not in key)
    (question, *_) = read_jsonl(at_once / "completions/eval_000000.jsonl")
    assert len(question["completions"][0]["segments"]) >= 3


def test_when_environments_answer_does_not_matter(data, at_once, tmp_path):
    held_out = f"--rl_config.eval_dataset_file={data / 'held_out.mindrecord'}"
    late = single(data, tmp_path / "late", *settings(delay=0.05), held_out)
    assert late.returncode == 0, late.stdout + late.stderr
    check_equal(at_once, tmp_path / "late")


@pytest.mark.parametrize(
    "layout",
    [
        (),
        ("--generate_config.parallel_config.model_parallel=2", "--actor_config.parallel_config.model_parallel=2"),
    ],
    ids=["data", "tensor"],
)
def test_two_ranks_sample_the_same(data, at_once, tmp_path, layout):
    code, text, logs = msrun(2, data, tmp_path / "two", *settings(delay=0.02), *layout)
    assert code == 0, text + logs
    for a, b in zip(metrics(at_once), metrics(tmp_path / "two"), strict=True):
        for key in EXACT:
            assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-7), (a["step"], key)
    for step in (1, 2, 3):
        assert texts(at_once, step) == texts(tmp_path / "two", step)


def test_a_run_that_was_killed_in_the_middle_of_episodes_goes_on(data, at_once, tmp_path):
    output = tmp_path / "killed"
    held_out = f"--rl_config.eval_dataset_file={data / 'held_out.mindrecord'}"
    given = [*settings(delay=0.3), held_out]  # a step's episodes take more than a second
    command = [sys.executable, MAIN, *arguments(data, output, *given)]
    kill_once_there([str(word) for word in command], output / "checkpoints/step_1", 200)
    assert not (output / "checkpoints/step_3").exists()
    result = single(data, output, *given, "--resume_training", "true", is_warm=False)
    assert result.returncode == 0, result.stdout + result.stderr
    check_equal(at_once, output)


def test_a_replay_makes_the_same_updates(data, at_once, tmp_path):
    words = [str(word) for word in arguments(data, tmp_path / "again", *settings(delay=0))]
    place = words.index("--dataset_file")
    del words[place : place + 2]
    files = sorted(str(path) for path in at_once.glob("experience_*.mindrecord"))
    assert any(each.written is not None for each in read_experience(files[0]).sequences)
    result = run_python("tools/replay.py", "--data", *files, *words)
    assert result.returncode == 0, result.stdout + result.stderr
    for a, b in zip(read_jsonl(tmp_path / "again/metrics.jsonl"), metrics(at_once), strict=True):
        shared = [key for key in a if not key.startswith(("time_s/", "memory/", "graphs/"))]
        assert {key: a[key] for key in shared} == {key: b[key] for key in shared}


def test_failures_are_left_out_of_their_group(data, tmp_path):
    output = tmp_path / "run"
    result = single(data, output, *settings("Sometimes"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "failed on" in result.stderr and "OSError: the service is down" in result.stderr
    rows = [row for step in (1, 2, 3) for row in completions(output, step)]
    failed = [row for row in rows if row["end"] == "failure"]
    assert 0 < len(failed) < len(rows) / 2
    assert all(row["outcome"] == "error" and row["advantage"] == row["counted_tokens"] == 0 for row in failed)
    assert sum(row["episode/failures"] for row in metrics(output)) == len(failed)
    for step in (1, 2, 3):
        for prompt in {row["prompt"] for row in completions(output, step)}:
            group = [row for row in completions(output, step) if row["prompt"] == prompt and row["end"] != "failure"]
            assert sum(row["advantage"] for row in group) == pytest.approx(0, abs=1e-5)  # the baseline is theirs alone


def test_what_ends_a_run(data, tmp_path):
    result = single(data, tmp_path / "run", *settings("Sometimes"), "--environment_config.on_failure=end")
    assert result.returncode != 0 and "failed on an episode, the last time with OSError" in result.stderr
    result = single(data, tmp_path / "other", *settings("Different"))
    assert result.returncode != 0 and "opens the episodes of one task" in result.stdout + result.stderr


def test_nothing_is_left_of_a_run_that_was_killed(data, tmp_path):
    output = tmp_path / "killed"
    before = environments()
    command = [sys.executable, MAIN, *arguments(data, output, *settings(delay=1))]
    kill_once_there([str(word) for word in command], output / "metrics.jsonl", 200)
    deadline = time.monotonic() + 20
    while environments() - before:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def environments():
    """Numbers of all processes of environments."""
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    found = filter(None, map(Process.find, numbers))
    return {each.pid for each in found if "mindrlhf_lite.episodes.nursery" in each.command_line() and each.is_alive()}


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (("--environment_config.environment=guess",), "environment 'guess' is unknown: use one of guess_number"),
        (("--environment_config.tools=[calculator]",), "give an environment or tools, not both"),
        (("--environment_config.arguments=[highest]",), "'highest': NAME=VALUE is needed"),
        (("--environment_config.arguments=[speed=3]",), "it takes delay, turns, folder"),
        (("--environment_config.max_turn_tokens=99",), "must not exceed"),
        (("--environment_config.environment=",), "environment_reward is what an environment pays"),
    ],
)
def test_mistakes_are_told_before_anything_starts(data, tmp_path, more, problem):
    result = single(data, tmp_path / "run", *settings(), *more)
    assert result.returncode == 2 and problem in result.stderr, result.stdout + result.stderr


def test_tools_need_a_chat_template(data, tmp_path):
    more = ("--environment_config.environment=", "--environment_config.tools=[calculator]")
    result = single(data, tmp_path / "run", *settings(), *more)
    assert result.returncode == 2 and "the tokenizer has no chat template" in result.stdout + result.stderr
