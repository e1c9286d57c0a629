"""tools/score.py, generate.py, evaluate.py and plot_run.py as users call them."""

import json

import numpy as np
import pytest
from helpers import read_jsonl, run_python


def write_rows(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_score_equals_transformers_and_generate(quickstart_model, tmp_path):
    """Greedy completions equal transformers' generate; their logprobs are what score.py finds for them."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "12+34="}, {"prompt": "7+8="}, {"prompt_ids": [25, 10, 25, 28]}])
    generated = run_python(
        "tools/generate.py", "--model", quickstart_model, "--input", rows, "--output", tmp_path / "out.jsonl", "--temperature", 0, "--max_tokens", 40
    )
    assert generated.returncode == 0, generated.stderr
    completions = read_jsonl(tmp_path / "out.jsonl")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(quickstart_model, dtype=torch.float32), AutoTokenizer.from_pretrained(quickstart_model)
    prompts = [tokenizer(text)["input_ids"] for text in ("12+34=", "7+8=")] + [[25, 10, 25, 28]]
    for prompt, completion in zip(prompts, completions):
        with torch.no_grad():
            expected = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False, pad_token_id=0)[0, len(prompt) :].tolist()
        assert completion["token_ids"] == expected
        assert completion["text"] == tokenizer.decode(expected, skip_special_tokens=True)
        assert completion["finish_reason"] == ("stop" if expected[-1] == tokenizer.eos_token_id else "length")
    scoring = [{"prompt_ids": prompt, "completion_ids": completion["token_ids"]} for prompt, completion in zip(prompts, completions)]
    scored = run_python(
        "tools/score.py",
        "--model",
        quickstart_model,
        "--input",
        write_rows(tmp_path / "s.jsonl", scoring),
        "--output",
        tmp_path / "scored.jsonl",
        "--batch_size",
        2,
    )
    assert scored.returncode == 0, scored.stderr
    for row, completion in zip(read_jsonl(tmp_path / "scored.jsonl"), completions):
        assert row["token_ids"] == completion["token_ids"]
        np.testing.assert_allclose(row["logprobs"], completion["logprobs"], atol=1e-4)


def test_evaluate(quickstart_model, tmp_path):
    dataset = tmp_path / "held_out.mindrecord"
    made = run_python(
        "tools/rlhf_data.py",
        "--tokenizer_dir",
        quickstart_model,
        "--dataset_type",
        "arithmetic",
        "--split",
        "held_out",
        "--num_rows",
        60,
        "--output_path",
        dataset,
    )
    assert made.returncode == 0
    common = ("--model", quickstart_model, "--dataset", dataset, "--max_tokens", 40)
    for k in (1, 4):
        result = run_python("tools/evaluate.py", *common, "--k", k, "--output", tmp_path / f"k{k}.json")
        assert result.returncode == 0, result.stderr
        values = json.loads((tmp_path / f"k{k}.json").read_text())
        low, high = values["interval_95"]
        assert 0 <= low < values["accuracy"] < high <= 1 and values["num_questions"] == 60
        assert list(values["pass_at"]) == [str(n) for n in (1, 2, 4) if n <= k] and values["pass_at"]["1"] == pytest.approx(values["accuracy"])
    refused = run_python("tools/evaluate.py", *common, "--k", 4, "--temperature", 0)
    assert refused.returncode == 2 and "all equal" in refused.stderr


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
    result = run_python("tools/score.py", "--model", quickstart_model, "--input", rows, "--output", tmp_path / "out.jsonl")
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    "tool",
    [
        *("rlhf_data", "score", "generate", "evaluate", "plot_run", "make_tiny_model", "make_random_model", "document_config"),
        *("plan_reshard", "transform_checkpoint", "bench_grpo", "bench_reshard", "bench_swap", "bench_recompute", "bench_rollout"),
    ],
)
def test_every_tool_has_help_with_an_example(tool):
    result = run_python(f"tools/{tool}.py", "--help")
    assert result.returncode == 0 and f"tools/{tool}.py" in result.stdout.partition("usage")[2].partition("\n\n")[2]


def test_missing_files_are_user_errors(tmp_path, quickstart_model):
    for arguments, message in (
        (("tools/score.py", "--model", tmp_path, "--input", __file__, "--output", tmp_path / "o"), "not valid JSON"),
        (("tools/evaluate.py", "--model", tmp_path, "--dataset", tmp_path / "x"), "no such file"),
        (("tools/plot_run.py", tmp_path), "no metrics.jsonl"),
        (("tools/generate.py", "--model", quickstart_model, "--input", tmp_path / "x", "--output", tmp_path / "o"), "no such file"),
    ):
        result = run_python(*arguments)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr
