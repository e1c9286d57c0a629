"""Numbers on the command line and in the environment: what is no number, or out of reach, is said in a line."""

import argparse
import ast
import os

import numpy as np
import pytest
from helpers import ROOT, run_python

from mindrlhf_lite.commands.tool import (
    COUNT,
    COUNT_OR_NONE,
    DIGIT_COUNT,
    NOT_NEGATIVE_NUMBER,
    POSITIVE_NUMBER,
    SEED,
    real_number,
    whole_number,
)
from mindrlhf_lite.rollout import host_draw
from mindrlhf_lite.rollout.host_draw import Draw, TokenHistory, allowed_threads, sample
from mindrlhf_lite.types import SamplingParams


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        (COUNT, ["1", "12"], ["0", "-1", "1.5", "", "x", "1e3", "9" * 5000, str(2**31)]),
        (COUNT_OR_NONE, ["0", "7"], ["-1", "nan"]),
        (SEED, ["0", str(2**63 - 1)], ["-1", str(2**63)]),
        (DIGIT_COUNT, ["1", "4"], ["0", "5"]),
        (whole_number(-3), ["-3", "9" * 30], ["-4"]),
        (POSITIVE_NUMBER, ["0.1", "1e3"], ["0", "-1", "nan", "inf", "", "1,5"]),
        (NOT_NEGATIVE_NUMBER, ["0", "0.7"], ["-0.1", "nan", "inf"]),
        (real_number(0, 1, False), ["1", "0.5"], ["0", "1.01"]),
    ],
)
def test_numbers_and_what_is_none(read, good, bad):
    for text in good:
        assert float(read(text)) == float(text)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=r"number .* is needed") as caught:
            read(text)
        assert len(str(caught.value)) < 150


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.stem)
def test_no_tool_reads_numbers_in_a_way_of_its_own(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        words = node.keywords if isinstance(node, ast.Call) else []
        types = {word.arg: getattr(word.value, "id", "") for word in words}
        is_own = types.get("type") in ("int", "float") and "choices" not in types
        assert not is_own, f"{path}:{node.lineno}: use the types of mindrlhf_lite.commands.tool"


@pytest.mark.parametrize(
    ("tool", "option", "value", "message"),
    [
        ("rlhf_data", "--seed", "-1", "argument --seed: -1: a whole number from 0 to"),
        ("rlhf_data", "--digits", "9", "argument --digits: 9: a whole number from 1 to 4"),
        ("rlhf_data", "--num_rows", "-5", "argument --num_rows/--rows: -5: a whole number from 1"),
        ("rlhf_data", "--ratios", "nan", "argument --ratios: nan: a number above 0"),
        ("generate", "--seed", "-7", "argument --seed: -7: a whole number from 0"),
        ("generate", "--temperature", "nan", "argument --temperature: nan: a number from 0"),
        ("score", "--batch_size", "0", "argument --batch_size: 0: a whole number from 1"),
        ("evaluate", "--seed", "-1", "argument --seed: -1: a whole number from 0"),
        ("make_random_model", "--seed", "-1", "argument --seed: -1: a whole number from 0"),
        ("make_tiny_model", "--digits", "0", "argument --digits: 0: a whole number from 1 to 4"),
    ],
)
def test_a_number_out_of_reach_is_one_line(tool, option, value, message):
    result = run_python(f"tools/{tool}.py", option, value)
    assert result.returncode == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "threads"),
    [("", None), ("2,1", 2), (" 3 , 2", 3), ("x", None), ("0", None), ("-1", None), ("1.5", None), ("9" * 50, None)],
)
def test_omp_num_threads_is_read_as_openmp_reads_it(monkeypatch, value, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert allowed_threads() == threads
    monkeypatch.setattr(host_draw, "_pool", None)
    rows = max(2, -(-host_draw._PARALLEL_LOGITS // 1000))
    draws = [Draw(SamplingParams(4, top_k=3), TokenHistory([1]), 0.5) for _ in range(rows)]
    assert len(sample(np.zeros((rows, 1000), np.float32), draws).token_ids) == rows
    assert os.environ["OMP_NUM_THREADS"] == value
