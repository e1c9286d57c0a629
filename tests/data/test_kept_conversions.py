"""Conversions of files in the layouts of other toolkits, and what is kept of a conversion for the next."""

import json
import sys

import numpy as np
import pytest
from data.layout_rows import MAP, VERL, questions_of, write_lines, write_parquet
from helpers import ROOT, run_python

from mindrlhf_lite.data import kept
from mindrlhf_lite.data.convert import Conversion, crew
from mindrlhf_lite.data.records import read_file, read_prompts
from mindrlhf_lite.data.sources import BadRow


def convert_file(path, model, *arguments):
    return run_python("tools/rlhf_data.py", "--tokenizer_dir", model, "--file_path", path, *arguments)


def test_verls_file_converts_as_it_is(tmp_path, quickstart_model):
    path, output = write_parquet(tmp_path / "train.parquet", [VERL]), tmp_path / "a.mindrecord"
    result = convert_file(path, quickstart_model, "--output_path", output)
    assert result.returncode == 0, result.stderr
    assert "read as --dataset_type verl" in result.stdout and "the rows are messages" in result.stdout
    header, (prompt,) = read_file(output)
    assert "What is 2+3?" in prompt.text and prompt.gold == "5" and header.counts == {"openai/gsm8k": 1}


def test_cheap_checks_come_before_tokenizing(tmp_path, quickstart_model):
    rows = [{"prompt": "long " * 300, "answer": "1"}, {"prompt": "1+1", "answer": "((("}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    common = ("--map_keys", json.dumps(MAP), "--output_path", tmp_path / "a.mindrecord", "--max_prompt_length", 100)
    result = convert_file(path, quickstart_model, *common)
    assert result.returncode == 2 and "a.jsonl:2:" in result.stderr and "tokenizing:" not in result.stderr
    result = convert_file(path, quickstart_model, *common, "--skip_bad_rows", "--sample", 2)
    assert "--sample 2: there are 1 usable rows" in result.stderr and "tokenizing:" not in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_what_a_conversion_found_out_is_kept(tmp_path, quickstart_model):
    rows = [{"prompt": f"{n}+1" + " long" * 20 * (n == 3), "answer": "(((" if n == 5 else str(n)} for n in range(9)]
    questions = questions_of(tmp_path, rows)
    converter = Conversion("plain", str(quickstart_model), max_prompt_length=20).open()
    with crew(converter, len(questions)) as processes:
        problems = processes.check(questions)
        results = processes.tokenize_good(questions, problems)
    path, key = kept.kept_path(tmp_path / "a.mindrecord"), kept.key_of(converter, questions)
    for found in (kept.Kept(problems), kept.Kept(problems, results)):
        kept.keep(path, key, found)
        assert kept.take_up(path, key) == found
    assert sum(isinstance(result, BadRow) for result in results) == 2
    other = Conversion("plain", str(quickstart_model), max_prompt_length=21).open()
    keys = {kept.key_of(other, questions), kept.key_of(converter, questions[1:])}
    assert key not in keys and kept.take_up(path, keys.pop()) is None
    path.write_bytes(path.read_bytes()[:-30])
    assert kept.take_up(path, key) is None and kept.take_up(tmp_path / "none", key) is None
    np.savez(path, ids=np.zeros(1))
    assert kept.take_up(path, key) is None


def test_a_second_conversion_goes_on_from_what_is_kept(tmp_path, quickstart_model, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import rlhf_data

    monkeypatch.setattr(kept, "WORTH_KEEPING_S", 0.0)
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": f"{n}+1" + "long" * n, "answer": "1"} for n in range(9)])
    common = ["x", "--tokenizer_dir", str(quickstart_model), "--file_path", str(path), "--map_keys", json.dumps(MAP)]
    common += ["--max_prompt_length", "20", "--output_path", str(tmp_path / "o.mindrecord")]
    monkeypatch.setattr(sys, "argv", common)
    with pytest.raises(SystemExit):
        rlhf_data.main()
    assert f"is kept in {tmp_path}/.o.mindrecord.checked.npz" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*common, "--skip_bad_rows"])
    rlhf_data.main()
    shown = capsys.readouterr()
    assert "going on from" in shown.out and "tokenizing" not in shown.err and "checking" not in shown.err
    assert len(read_file(tmp_path / "o.mindrecord")[1]) == 5
    left = {file.name for file in tmp_path.iterdir()} - {".o.mindrecord.lock"}  # which this process holds
    assert left == {"a.jsonl", "o.mindrecord", "o.mindrecord.db"}


def test_columns_that_verifiers_see(tmp_path, quickstart_model):
    """By name and by dotted path, with JSON values of any kind; a row that lacks one is a bad row."""
    rows = [
        {"question": "1+2=", "answer": "3", "level": 2, "extra_info": {"tags": ["easy", "心"]}},
        {"question": "2+2=", "answer": "4", "level": None, "extra_info": {"tags": []}},
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = ("--tokenizer_dir", quickstart_model, "--dataset_type", "custom", "--file_path", source)
    options += ("--map_keys", '{"prompt": "question", "response": "answer"}', "--max_prompt_length", 8)
    options += ("--seq_length", 48, "--output_path", tmp_path / "rows.mindrecord")
    kept = ("--keep_columns", "level, extra_info.tags")
    refused = run_python("tools/rlhf_data.py", *options, *kept)
    assert refused.returncode == 2 and "rows.jsonl:2: field 'level' is null" in refused.stderr
    assert run_python("tools/rlhf_data.py", *options, *kept, "--skip_bad_rows").returncode == 0
    (prompt,) = read_prompts(tmp_path / "rows.mindrecord")
    assert prompt.columns == {"level": 2, "extra_info.tags": ["easy", "心"]}
