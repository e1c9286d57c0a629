"""MindRecord files as people handle them: renamed, copied, cut short, mixed up, on a full disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from helpers import ROOT, listen_to_ctrl_c, run_python

from mindrlhf_lite.data.records import Header, read_header, read_prompts, write_prompts
from mindrlhf_lite.types import Prompt


def prompts(count, name):
    return [Prompt(index, (1, 2, 3), f"{name}{index}", str(index), index + 1, "s") for index in range(count)]


def copy(source, target):
    for suffix in ("", ".db"):
        shutil.copy(f"{source}{suffix}", f"{target}{suffix}")


def test_a_copy_stays_what_it_is_when_its_old_name_is_given_away(tmp_path):
    train, backup = tmp_path / "train.mindrecord", tmp_path / "a.mindrecord"
    write_prompts(train, prompts(40, "old"))
    copy(train, backup)
    write_prompts(train, prompts(8, "new"))
    assert read_prompts(backup) == prompts(40, "old") and read_prompts(train) == prompts(8, "new")
    train.unlink()
    assert len(read_prompts(backup)) == 40


def test_a_renamed_file_is_read_from_anywhere(tmp_path, monkeypatch):
    write_prompts(
        tmp_path / "train.mindrecord", prompts(5, "x"), header=Header(template="plain", counts={"s": 5}, longest=3)
    )
    (tmp_path / "other place").mkdir()
    for suffix in ("", ".db"):
        os.replace(tmp_path / f"train.mindrecord{suffix}", tmp_path / f"other place/renamed{suffix}")
    monkeypatch.chdir(tmp_path / "other place")
    assert read_prompts("renamed") == prompts(5, "x") and read_header("renamed").counts == {"s": 5}


def change(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda file, index: shutil.copy(file.with_name("other.mindrecord.db"), index),
            "not the file that its index a.mindrecord.db was written for",
        ),
        (lambda file, index: os.truncate(file, file.stat().st_size // 2), "cut short or changed"),
        (lambda file, index: os.truncate(file, 0), "cut short or changed"),
        (lambda file, index: change(file, -1), "cut short or changed"),
        (lambda file, index: change(file, 1000), "cut short or changed"),
        (lambda file, index: index.unlink(), "index a.mindrecord.db is missing"),
        (lambda file, index: os.truncate(index, 5000), "index a.mindrecord.db is damaged"),
        (lambda file, index: index.write_bytes(b"no database"), "index a.mindrecord.db is damaged"),
        (lambda file, index: change(index, 100), "index a.mindrecord.db is damaged"),
    ],
)
def test_damage_and_mix_ups_are_named_with_what_to_do(tmp_path, damage, message):
    file, index = tmp_path / "a.mindrecord", tmp_path / "a.mindrecord.db"
    write_prompts(file, prompts(20, "a"))
    write_prompts(tmp_path / "other.mindrecord", prompts(20, "b"))
    damage(file, index)
    for read in (read_prompts, read_header):
        with pytest.raises(ValueError, match=r"tools/rlhf_data\.py") as error:
            read(file)
        assert message in str(error.value) and str(file) in str(error.value)


def test_a_source_file_is_no_data_set(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"convert it with `tools/rlhf_data\.py --file_path"):
        read_prompts(tmp_path / "train.jsonl")


@contextmanager
def small_disk(folder, size):
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("needs root: a small file system is mounted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_in_words(tmp_path, quickstart_model):
    with small_disk(tmp_path / "disk", "1m") as disk:
        result = run_python(
            "tools/rlhf_data.py",
            "--tokenizer_dir",
            quickstart_model,
            "--dataset_type",
            "arithmetic",
            "--output_path",
            disk / "x.mindrecord",
        )
        assert (
            result.returncode == 2 and "no room to write" in result.stderr and "nothing was written" in result.stderr
        ), result.stderr
        assert "Traceback" not in result.stderr and "Line of code" not in result.stderr and not list(disk.iterdir())


def test_an_output_is_not_overwritten_by_accident(tmp_path, quickstart_model):
    arguments = (
        "--tokenizer_dir",
        quickstart_model,
        "--dataset_type",
        "arithmetic",
        "--num_rows",
        5,
        "--output_path",
        tmp_path / "x.mindrecord",
    )
    assert run_python("tools/rlhf_data.py", *arguments).returncode == 0
    again = run_python("tools/rlhf_data.py", *arguments)
    assert again.returncode == 2 and "exists already; give another name, or --overwrite" in again.stderr
    assert run_python("tools/rlhf_data.py", *arguments, "--overwrite").returncode == 0


def test_tools_without_the_environment_say_which_to_activate():
    result = subprocess.run(
        [sys.executable, "-S", "-E", str(ROOT / "tools/evaluate.py"), "--model", "x"], capture_output=True, text=True
    )
    assert (
        result.returncode == 2 and "source .venv/bin/activate" in result.stderr and "Traceback" not in result.stderr
    ), result.stderr


def test_ctrl_c_while_several_processes_convert_is_one_line(tmp_path, quickstart_model):
    """multiprocessing lets the signals through again, to the main thread and to its workers."""
    rows = "\n".join(
        json.dumps({"question": f"What is {n}+1? {'So they say. ' * 40}", "answer": f"#### {n + 1}"})
        for n in range(60_000)
    )
    (tmp_path / "rows.jsonl").write_text(rows + "\n")
    settings = [
        "--tokenizer_dir",
        quickstart_model,
        "--file_path",
        tmp_path / "rows.jsonl",
        "--output_path",
        tmp_path / "x.mindrecord",
        "--log_interval",
        256,
    ]
    command = [sys.executable, "-u", ROOT / "tools/rlhf_data.py", *settings, "--dataset_type", "gsm8k", "--workers", 2]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [str(word) for word in command], **pipes, start_new_session=True, preexec_fn=listen_to_ctrl_c
    ) as process:
        assert process.stdout.readline().startswith("tokenized")
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.strip() == "interrupted", errors


def test_a_missing_field_is_named_with_those_that_are_there(tmp_path, quickstart_model):
    (tmp_path / "rows.jsonl").write_text('{"problem": "1+1=", "solution": "2"}\n')
    settings = (
        "--tokenizer_dir",
        quickstart_model,
        "--file_path",
        tmp_path / "rows.jsonl",
        "--output_path",
        tmp_path / "x.mindrecord",
    )
    result = run_python("tools/rlhf_data.py", *settings, "--dataset_type", "gsm8k")
    assert (
        result.returncode == 2 and "field 'question' is missing; the row has 'problem', 'solution'" in result.stderr
    ), result.stderr


def test_a_random_model_does_not_replace_another(tmp_path, quickstart_model):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    settings = ("--config", quickstart_model, "--tokenizer_dir", quickstart_model, "--output", tmp_path / "model")
    result = run_python("tools/make_random_model.py", *settings)
    assert (
        result.returncode == 2
        and "exists already and is not empty" in result.stderr
        and (tmp_path / "model/config.json").read_text() == "{}"
    )
