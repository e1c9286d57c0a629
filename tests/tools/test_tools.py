"""tools/score.py, generate.py, evaluate.py and plot_run.py as users call them."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, clean_environment, read_jsonl, run_python
from tools.rows import write_rows

from mindrlhf_lite.data.tokenizer import Tokenizer


def greedy_by_transformers(folder, prompts):
    """(its tokenizer, [tokens of the completion of every prompt of tokens])."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    settings, found = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0}, []
    for prompt in prompts:
        with torch.no_grad():
            found.append(model.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :].tolist())
    return AutoTokenizer.from_pretrained(folder), found


def test_score_equals_transformers_and_generate(quickstart_model, tmp_path):
    """Greedy completions equal transformers' generate; their logprobs are what score.py finds for them."""
    by_ids = [25, 10, 25, 28]
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "12+34="}, {"prompt": "7+8="}, {"prompt_ids": by_ids}])
    model, output = ("--model", quickstart_model), tmp_path / "out.jsonl"
    greedy = ("--temperature", 0, "--max_tokens", 40)
    generated = run_python("tools/generate.py", *model, "--input", rows, "--output", output, *greedy)
    assert generated.returncode == 0, generated.stderr
    completions, tokenizer = read_jsonl(output), Tokenizer(str(quickstart_model))
    prompts = [*(tokenizer.encode(text) for text in ("12+34=", "7+8=")), by_ids]
    theirs, every = greedy_by_transformers(quickstart_model, prompts)
    for completion, expected in zip(completions, every, strict=True):
        assert completion["token_ids"] == expected
        assert completion["text"] == theirs.decode(expected, skip_special_tokens=True)
        assert completion["finish_reason"] == ("stop" if expected[-1] == theirs.eos_token_id else "length")
    scoring = [
        {"prompt_ids": list(prompt), "completion_ids": completion["token_ids"]}
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    rows, output = write_rows(tmp_path / "s.jsonl", scoring), tmp_path / "scored.jsonl"
    scored = run_python("tools/score.py", *model, "--input", rows, "--output", output, "--batch_size", 2)
    assert scored.returncode == 0, scored.stderr
    for row, completion in zip(read_jsonl(output), completions, strict=True):
        assert row["token_ids"] == completion["token_ids"]
        np.testing.assert_allclose(row["logprobs"], completion["logprobs"], atol=1e-4)


def test_chat_streams_and_is_greedy_as_the_file_mode_is(quickstart_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "12+34="}, {"prompt": "7+8="}])
    options = ("--model", quickstart_model, "--temperature", 0, "--max_tokens", 40)
    assert (
        run_python("tools/generate.py", *options, "--input", rows, "--output", tmp_path / "out.jsonl").returncode == 0
    )
    command = ("tools/generate.py", *options, "--chat", "--prompt_type", "plain", "--max_length", 64)
    chat = run_python(*command, given="12+34=\n\n/new\n7+8=\n" + "9" * 60 + "\n/exit\nnever\n")
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.splitlines()[1:] == [row["text"] for row in read_jsonl(tmp_path / "out.jsonl")]
    assert "error: the prompt has 60 tokens; 1 to 24 fit beside --max_tokens=40" in chat.stderr
    broken = run_python(*command, given=b"\xff\xfe\n7+8=\n")
    assert broken.returncode == 0 and "not UTF-8" in broken.stderr and "Traceback" not in broken.stderr
    assert len(broken.stdout.splitlines()) == 2
    refused = run_python(*command, "--system", "Be kind.")
    assert refused.returncode == 2 and "--system: template plain has no place for it" in refused.stderr


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": ', "rows.jsonl:1: not valid JSON"),
        ({"completion": "x"}, "row 1: needs 'prompt' (text) or 'prompt_ids'"),
        ({"prompt": "1", "completion": ""}, "row 1: completion must be at least one token id"),
        ({"prompt_ids": [99999], "completion": "1"}, "row 1: prompt must be at least one token id in 0..267"),
    ],
)
def test_bad_rows_are_named(quickstart_model, tmp_path, row, message):
    rows = write_rows(tmp_path / "rows.jsonl", [row])
    result = run_python(
        "tools/score.py", "--model", quickstart_model, "--input", rows, "--output", tmp_path / "out.jsonl"
    )
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    "tool",
    [
        *(
            "rlhf_data",
            "score",
            "generate",
            "evaluate",
            "plot_run",
            "make_tiny_model",
            "make_random_model",
            "document_config",
        ),
        *(
            "plan_reshard",
            "transform_checkpoint",
            "convert_weight",
            "lab_report",
            "quantize",
            "bench_grpo",
            "bench_reshard",
            "bench_swap",
            "bench_recompute",
            "bench_rollout",
        ),
    ],
)
def test_every_tool_has_help_with_an_example(tool):
    result = run_python(f"tools/{tool}.py", "--help")
    assert result.returncode == 0 and f"tools/{tool}.py" in result.stdout.partition("usage")[2].partition("\n\n")[2]


def test_missing_files_are_user_errors(tmp_path, quickstart_model):
    for arguments, message in (
        (("tools/score.py", "--model", tmp_path, "--input", __file__, "--output", tmp_path / "o"), "not valid JSON"),
        (("tools/evaluate.py", "--model", tmp_path, "--dataset", tmp_path / "x"), "no such file"),
        (("tools/evaluate.py", "--model", tmp_path), "--dataset: needed"),
        (("tools/evaluate.py", "--dataset", tmp_path), "give --model DIR, or --compare A B"),
        (("tools/generate.py", "--model", quickstart_model), "--input and --output are needed, or --chat"),
        (("tools/plot_run.py", tmp_path), "no metrics.jsonl"),
        (
            ("tools/generate.py", "--model", quickstart_model, "--input", tmp_path / "x", "--output", tmp_path / "o"),
            "no such file",
        ),
    ):
        result = run_python(*arguments)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_tools_say_nothing_that_is_the_frameworks(quickstart_model, sums):
    """Without the variables that scripts and tests set, on a terminal of a newcomer."""
    loud = {"GLOG_v", "TRANSFORMERS_VERBOSITY", "TRANSFORMERS_NO_ADVISORY_WARNINGS", "HF_HUB_OFFLINE"}
    environment = {key: value for key, value in clean_environment().items() if key not in loud}
    commands = [
        ["tools/evaluate.py", "--model", quickstart_model, "--dataset", sums, "--max_tokens", 4, "--max_prompts", 2],
        ["tools/generate.py", "--model", quickstart_model, "--chat", "--prompt_type", "plain", "--max_tokens", 4],
    ]
    for command in commands:
        words = [sys.executable, *map(str, command)]
        result = subprocess.run(
            words, cwd=ROOT, input="1+2=\n", capture_output=True, text=True, env=environment, timeout=200
        )
        assert result.returncode == 0, result.stderr
        assert not [
            line
            for line in (result.stdout + result.stderr).splitlines()
            if "[WARNING]" in line or "[INFO]" in line or "None of PyTorch" in line
        ]
