"""examples/tools: its data, its warm-up and its settings, cut short; and all of it, which takes minutes."""

import json
import re
import sys

import pytest
from distributed.small_runs import completions
from helpers import ROOT, read_jsonl, run, run_python

EXAMPLE, SPLITS = ROOT / "examples/tools", ("train", "held_out")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model after two steps of its warm-up, and its data."""
    folder = tmp_path_factory.mktemp("tools") / "model"
    result = run_python(EXAMPLE / "make_model.py", "--output", folder, "--steps", 2, "--batch_size", 4)
    assert result.returncode == 0, result.stdout + result.stderr
    convert(folder, 24)
    return folder


def convert(folder, longest):
    for split in SPLITS:
        files = ("--file_path", folder / f"data/{split}.jsonl", "--output_path", folder / f"data/{split}.mindrecord")
        kind = ("--dataset_type", "arithmetic", "--prompt_type", "plain", "--max_prompt_length", longest)
        result = run_python("tools/rlhf_data.py", "--tokenizer_dir", folder, *kind, *files)
        assert result.returncode == 0, result.stderr


def start(config, folder, output, *more, timeout=300):
    data = ("--dataset_file", folder / "data/train.mindrecord")
    held_out = f"--rl_config.eval_dataset_file={folder / 'data/held_out.mindrecord'}"
    words = ("--actor_checkpoint_path", folder, *data, held_out, f"--rl_config.output_dir={output}")
    short = ("--rl_config.max_steps=1", "--rl_config.chunk_size=2", "--rl_config.eval_max_prompts=6")
    result = run_python(
        "examples/qwen_grpo/main.py", "--config", EXAMPLE / config, *words, *short, *more, timeout=timeout
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_splits_share_no_product(made):
    pairs = {
        name: {row["question"] for row in read_jsonl(made / f"data/{name}.jsonl")} for name in ("train", "held_out")
    }
    assert not pairs["train"] & pairs["held_out"] and len(pairs["held_out"]) > 190
    for row in read_jsonl(made / "data/held_out.jsonl"):
        a, b = map(int, re.fullmatch(r"(\d{3})\*(\d{3})=", row["question"]).groups())
        assert row["answer"] == str(a * b)


def test_its_settings_train(made, tmp_path):
    start("grpo_config.yaml", made, tmp_path / "run")
    (row, *_) = completions(tmp_path / "run", 1)
    assert row["prompt"].startswith("<|im_start|>user\n") and row["turns"]
    shown = run([sys.executable, EXAMPLE / "show.py", tmp_path / "run"])
    assert shown.returncode == 0 and re.search(r"after +\d+\.\d% of 6 right, \d\.\d\d calls and \d", shown.stdout)


def test_the_guessing_game_trains(tmp_path):
    folder = tmp_path / "guesser"
    result = run_python(EXAMPLE / "make_guesser.py", "--output", folder, "--steps", 2, "--batch_size", 4)
    assert result.returncode == 0, result.stdout + result.stderr
    convert(folder, 8)
    start("guess_config.yaml", folder, tmp_path / "run", "--rl_config.credit=turn")
    rows = completions(tmp_path / "run", 1)
    assert all(1 <= len(row["turns"]) <= 7 and row["solved"] is (row["reward"] == 1) for row in rows)


@pytest.mark.full
def test_it_learns_to_call(tmp_path):
    """From at most 20 % to at least 90 % of held-out products."""
    folder = tmp_path / "model"
    assert run_python(EXAMPLE / "make_model.py", "--output", folder, timeout=1200).returncode == 0
    convert(folder, 24)
    long = ("--rl_config.max_steps=30", "--rl_config.chunk_size=32", "--rl_config.eval_max_prompts=0")
    start("grpo_config.yaml", folder, tmp_path / "run", *long, timeout=1800)
    accuracy = json.loads((tmp_path / "run/summary.json").read_text())["accuracy"]
    assert accuracy["before"]["accuracy"] <= 0.2 and accuracy["after"]["accuracy"] >= 0.9
