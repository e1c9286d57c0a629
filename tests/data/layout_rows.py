"""Rows in the layouts of verl and TRL, and their files."""

import json

import pytest

from mindrlhf_lite.data.sources import dataset_type, read_questions

USER = {"role": "user", "content": "What is 2+3?"}


VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [USER],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "extra_info": {"split": "train", "index": 0},
}


MAP = {"prompt": "prompt", "response": "answer"}


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def questions_of(tmp_path, rows):
    return list(read_questions(write_lines(tmp_path / "a.jsonl", rows), dataset_type("custom", MAP)))
