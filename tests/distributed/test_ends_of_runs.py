"""How runs end early: full disks, Ctrl-C, a dead rank, a broken verifier; nothing is lost, and one line says what to
do.
"""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from distributed.jobs import VERIFIERS, end_processes_of
from distributed.small_runs import MAIN, arguments, metrics, single, without_times
from helpers import ROOT, clean_environment, listen_to_ctrl_c, run, run_python

from mindrlhf_lite.job.processes import Process
from mindrlhf_lite.models.hf_weights import load_weights
from mindrlhf_lite.shapes.model_config import ModelConfig


def test_a_full_disk_at_the_end_loses_no_weights(data, tmp_path):
    """Without checkpoints the trained model goes to the system's scratch folder; the message says where."""
    (tmp_path / "disk").mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(tmp_path / "disk")], capture_output=True
    ).returncode:
        pytest.skip("needs root: a small file system is mounted")
    try:
        (tmp_path / "filler.py").write_text(
            "from pathlib import Path\n"
            "def reward(completion, gold):\n"
            f"    Path('{tmp_path}/disk/full').write_bytes(bytes(900_000))\n"
            "    return len(completion.text) % 2\n"
        )
        settings = ("--verifier_function", "filler.reward", "--verifier_weight", "1.0", "--rl_config.max_steps=1")
        command = [sys.executable, MAIN, *arguments(data, tmp_path / "disk/run", *settings)]
        (tmp_path / "scratch").mkdir()
        result = run(command, cwd=tmp_path, PYTHONPATH=str(tmp_path), TMPDIR=str(tmp_path / "scratch"))
        assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
        assert "the trained model could not be written to" in result.stderr and "No space left" in result.stderr
        assert not (tmp_path / "disk/run/hf").exists()
        (rescued,) = (tmp_path / "scratch").glob("mindrlhf_lite_rescued_*/hf")
        before, after = (load_weights(folder, ModelConfig.from_dir(folder)) for folder in (data / "model", rescued))
        assert str(rescued) in result.stderr and (rescued / "vocab.json").is_file()
        assert any((before[name] != after[name]).any() for name in before)  # trained
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


def test_there_is_no_room_for_what_the_run_would_keep(data, tmp_path):
    (tmp_path / "disk").mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(tmp_path / "disk")], capture_output=True
    ).returncode:
        pytest.skip("needs root: a small file system is mounted")
    try:
        result = single(data, tmp_path / "disk/run", "--dry_run")
        assert result.returncode == 2 and "make room, or give another folder" in result.stderr, result.stderr
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


def test_ctrl_c_in_plain_python_is_one_line(data, tmp_path):
    command = [
        sys.executable,
        str(MAIN),
        *map(str, arguments(data, tmp_path / "run", "--rl_config.max_steps=400", "--rl_config.save_ckpt_interval=1")),
    ]
    environment = {key: value for key, value in clean_environment(PYTHONPATH=VERIFIERS).items() if key != "GLOG_v"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        command, cwd=ROOT, **pipes, env=environment, start_new_session=True, preexec_fn=listen_to_ctrl_c
    ) as process:
        deadline = time.monotonic() + 200
        while not (tmp_path / "run/checkpoints/step_2").is_dir():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        text, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = [line for line in errors.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("interrupted; the newest checkpoint is after step "), (
        errors
    )  # no framework line either
    assert f"--rl_config.output_dir={tmp_path / 'run'} --resume_training" in lines[0]
    assert text.count("compiling graphs") == 1 and "first step done after" in text


SAVES = ("--rl_config.max_steps=6", "--rl_config.save_ckpt_interval=100", "--rl_config.on_sigterm=save")


def wait_for_step(output, step, process):
    deadline = time.monotonic() + 200
    while not (output / f"completions/step_{step:06d}.jsonl").is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("ranks", [pytest.param(0, marks=pytest.mark.full), 2])
def test_sigterm_saves_where_it_is_to(data, baseline, tmp_path, ranks):
    """Plain python, and two tensor-parallel ranks under the launcher: exit code 0, a checkpoint, and the rest of the
    run, on one rank, as if nothing had been.
    """
    output, job = tmp_path / "run", uuid.uuid4().hex
    launcher = ["-m", "mindrlhf_lite.job", f"--ranks={ranks}", f"--log_dir={tmp_path}/log"] if ranks else []
    layout = ["--actor_config.parallel_config.model_parallel=2"] if ranks else []
    command = [sys.executable, *launcher, str(MAIN), *map(str, arguments(data, output, *SAVES, *layout))]
    environment = clean_environment(PYTHONPATH=f"{ROOT}:{VERIFIERS}", TEST_JOB=job)
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **both, env=environment) as process:
        try:
            wait_for_step(output, 2, process)
            process.terminate()
            text, _ = process.communicate(timeout=120)
        finally:
            end_processes_of(job)
    assert process.returncode == 0 and "Traceback" not in text, text[-3000:]
    (stopped,) = re.findall(r"stopped by SIGTERM after step (\d+); the newest checkpoint is after step \1;", text)
    assert 2 <= int(stopped) < 6 and "the run stops after this step, with a checkpoint" in text
    assert not (output / "summary.json").exists() and not (output / "hf").exists()
    resumed = single(data, output, *SAVES, "--resume_training", "true", is_warm=False)
    assert resumed.returncode == 0 and f"resumed after step {stopped}" in resumed.stdout, resumed.stderr[-3000:]
    for ours, theirs in zip(metrics(output), metrics(baseline), strict=True):
        assert ours["loss/total"] == pytest.approx(theirs["loss/total"], rel=1e-4, abs=1e-6)
    if not ranks:
        assert without_times(metrics(output)) == without_times(metrics(baseline))


def test_a_verifier_that_breaks_after_its_trial_ends_the_run_with_its_error(data, tmp_path):
    (tmp_path / "broken.py").write_text(
        "def reward(completion, gold):\n"
        "    if completion.text == f'<think></think><answer>{gold}</answer>':\n"  # the trial before the run
        "        return 1.0\n"
        "    raise KeyError('no such field')\n"
    )
    verifier = ("--verifier_function", "broken.reward", "--verifier_weight", "1.0")
    command = (MAIN, *arguments(data, tmp_path / "run", *verifier, "--rl_config.num_generations=8"))
    result = run_python(*command, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (
        result.returncode == 2
        and "failed on 20 completions in a row, the last time with KeyError: 'no such field'" in result.stderr
    ), result.stderr
    assert "Traceback" not in result.stderr


def rank_of(job, number):
    """The process of a rank of a job that runs."""
    wanted = {"TEST_JOB": job, "RANK_ID": str(number), "MS_ROLE": "MS_WORKER"}.items()
    every = (Process.find(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    (found,) = [
        each.pid
        for each in every
        if each
        and wanted <= each.environment().items()
        and os.getpgid(each.pid) == each.pid
        and "main.py" in Path(f"/proc/{each.pid}/cmdline").read_text()
    ]
    return found


SAVES_EVERY_STEP = ("--rl_config.save_ckpt_interval=1", "--rl_config.save_max_ckpt_num=3")
SHARED_OUT = ("--actor_config.enable_parallel_optimizer=true", "--generate_config.parallel_config.model_parallel=2")


@pytest.fixture(scope="module")
def killed(data, tmp_path_factory):
    """(output folder, exit code, console) of a run whose two ranks share the optimizer's state; the second was killed
    after a few steps, and all ended within ten seconds.
    """
    folder, job = tmp_path_factory.mktemp("killed"), uuid.uuid4().hex
    output = folder / "run"
    launcher = [sys.executable, "-m", "mindrlhf_lite.job", "--ranks=2", f"--log_dir={folder}/log", str(MAIN)]
    command = [
        *launcher,
        *map(str, arguments(data, output, "--rl_config.max_steps=400", *SAVES_EVERY_STEP, *SHARED_OUT)),
    ]
    environment = clean_environment(PYTHONPATH=f"{ROOT}:{VERIFIERS}", TEST_JOB=job)
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **both, env=environment) as process:
        try:
            deadline = time.monotonic() + 200
            while not (output / "checkpoints/step_4").is_dir():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            os.kill(rank_of(job, 1), signal.SIGKILL)
            text, _ = process.communicate(timeout=10)
        finally:
            end_processes_of(job)
    return output, process.returncode, text


def test_a_killed_rank_of_a_run_is_named_with_what_to_type(killed):
    """The whole program, on two ranks: nothing left, and the run goes on from there."""
    _, code, text = killed
    assert code == 1 and "Traceback" not in text, text[-3000:]
    assert re.search(r"error: rank 1 was killed by signal 9 \(SIGKILL\) in step \d+, \w+", text), text[-3000:]
    assert "the newest checkpoint is after step " in text


def test_resume_after_kill_9_and_damage(data, baseline, killed):
    """On one rank: the newest checkpoint is damaged, the one before it is used, and its step made anew; the steps are
    those of a run that nothing disturbed.
    """
    output = killed[0]
    newest = max(int(path.name[5:]) for path in (output / "checkpoints").glob("step_*"))
    with (output / f"checkpoints/step_{newest}/rank_00000.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    limit = f"--rl_config.max_steps={newest + 1}"
    result = single(data, output, limit, *SAVES_EVERY_STEP, "--resume_training", "true")
    assert result.returncode == 0, result.stderr
    assert f"step_{newest} is damaged: " in result.stdout and f"resumed after step {newest - 1}" in result.stdout
    rows = metrics(output)
    assert [row["step"] for row in rows] == list(range(1, newest + 2))
    for ours, theirs in zip(rows, metrics(baseline), strict=False):
        for key in ("loss/total", "policy/grad_norm", "reward/mean", "policy/entropy"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6), (ours["step"], key)
