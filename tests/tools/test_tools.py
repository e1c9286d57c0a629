"""tools/score.py, generate.py, evaluate.py and plot_run.py as users call them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, clean_environment, read_jsonl, run_python


def write_rows(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_score_equals_transformers_and_generate(quickstart_model, tmp_path):
    """Greedy completions equal transformers' generate; their logprobs are what score.py finds for them."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = write_rows(
        tmp_path / "rows.jsonl", [{"prompt": "12+34="}, {"prompt": "7+8="}, {"prompt_ids": [25, 10, 25, 28]}]
    )
    generated = run_python(
        "tools/generate.py",
        "--model",
        quickstart_model,
        "--input",
        rows,
        "--output",
        tmp_path / "out.jsonl",
        "--temperature",
        0,
        "--max_tokens",
        40,
    )
    assert generated.returncode == 0, generated.stderr
    completions = read_jsonl(tmp_path / "out.jsonl")
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(quickstart_model, dtype=torch.float32),
        AutoTokenizer.from_pretrained(quickstart_model),
    )
    prompts = [tokenizer(text)["input_ids"] for text in ("12+34=", "7+8=")] + [[25, 10, 25, 28]]
    for prompt, completion in zip(prompts, completions):
        with torch.no_grad():
            expected = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False, pad_token_id=0)[
                0, len(prompt) :
            ].tolist()
        assert completion["token_ids"] == expected
        assert completion["text"] == tokenizer.decode(expected, skip_special_tokens=True)
        assert completion["finish_reason"] == ("stop" if expected[-1] == tokenizer.eos_token_id else "length")
    scoring = [
        {"prompt_ids": prompt, "completion_ids": completion["token_ids"]}
        for prompt, completion in zip(prompts, completions)
    ]
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


@pytest.fixture(scope="module")
def sums(quickstart_model, tmp_path_factory):
    """60 held-out sums, of two sources."""
    folder = tmp_path_factory.mktemp("sums")
    for name, numbers in (("small", range(1, 31)), ("large", range(40, 70))):
        write_rows(folder / f"{name}.jsonl", [{"q": f"{n}+{n + 7}=", "a": str(2 * n + 7)} for n in numbers])
    inputs = (
        "--file_path",
        folder / "small.jsonl",
        folder / "large.jsonl",
        "--map_keys",
        '{"prompt":"q","response":"a"}',
        "--prompt_type",
        "plain",
    )
    made = run_python(
        "tools/rlhf_data.py", "--tokenizer_dir", quickstart_model, *inputs, "--output_path", folder / "sums.mindrecord"
    )
    assert made.returncode == 0, made.stderr
    return folder / "sums.mindrecord"


def test_evaluate(quickstart_model, sums, tmp_path):
    common = ("--model", quickstart_model, "--dataset", sums, "--max_tokens", 40)
    for k in (1, 4):
        result = run_python("tools/evaluate.py", *common, "--k", k, "--output", tmp_path / f"k{k}.json")
        assert result.returncode == 0, result.stderr
        values, rows = (
            json.loads((tmp_path / f"k{k}.json").read_text()),
            read_jsonl(tmp_path / f"k{k}.completions.jsonl"),
        )
        low, high = values["interval_95"]
        assert 0 <= low < values["accuracy"] < high <= 1 and values["num_questions"] == 60
        assert list(values["pass_at"]) == [str(n) for n in (1, 2, 4) if n <= k] and values["pass_at"][
            "1"
        ] == pytest.approx(values["accuracy"])
        # what was counted can be counted again from what was saved
        right = [[completion["correct"] for completion in row["completions"]] for row in rows]
        assert np.mean(right) == pytest.approx(values["accuracy"]) and {len(row) for row in right} == {k}
        parts = values["by_source"]
        assert list(parts) == ["small", "large"] and {part["num_questions"] for part in parts.values()} == {30}
        assert parts["small"]["accuracy"] == pytest.approx(np.mean(right[:30])) and parts["large"][
            "accuracy"
        ] == pytest.approx(np.mean(right[30:]))
        assert values["settings"] == {
            "max_tokens": 40,
            "temperature": 0.0 if k == 1 else 1.0,
            "verifier": "qwen_accuracy_reward",
            "seed": 0,
        }
        first = rows[0]["completions"][0]
        assert rows[0]["prompt"] == "1+8=" and rows[0]["gold"] == "9" and first["finish_reason"] in ("stop", "length")
        assert f"small  {parts['small']['accuracy']:.1%}" in result.stdout
    refused = run_python("tools/evaluate.py", *common, "--k", 4, "--temperature", 0)
    assert refused.returncode == 2 and "all equal" in refused.stderr


def answered(path, verifier, verdicts, texts=("17", "18", "about 18")):
    rows = [
        {
            "prompt": f"q{number}",
            "gold": "18",
            "source": "",
            **({"verifier": verifier} if verifier else {}),
            "completions": [{"text": text, "tokens": 2, "finish_reason": "stop", "correct": verdict}],
        }
        for number, (text, verdict) in enumerate(zip(texts, verdicts, strict=True))
    ]
    path.parent.mkdir(exist_ok=True)
    return write_rows(path, rows)


def test_answers_are_compared_under_one_verifier(tmp_path):
    """Partial credit that counted as correct, against a strict verifier: nothing is compared until one judges both."""
    strict = answered(tmp_path / "a" / "eval_000009.jsonl", "accuracy_reward", [False, True, False])
    lax = answered(tmp_path / "b" / "eval_000009.jsonl", "mine.partial", [True, True, True])
    refused = run_python("tools/evaluate.py", "--compare", strict, lax)
    assert refused.returncode == 2 and "--verifier accuracy_reward judges both again" in refused.stderr
    again = run_python("tools/evaluate.py", "--verifier", "accuracy_reward", "--compare", strict, lax)
    assert again.returncode == 0 and "better on 0 questions, worse on 0" in again.stdout, again.stdout + again.stderr
    each = run_python("tools/evaluate.py", strict, lax, "--verifier", "qwen_accuracy_reward")
    assert each.stdout.count(", by qwen_accuracy_reward") == 2 and each.stdout.count("accuracy 66.7%") == 2
    kept = run_python("tools/evaluate.py", lax, "--output", tmp_path / "out.json")
    assert "accuracy 100.0%" in kept.stdout and "by mine.partial" in kept.stdout
    assert json.loads((tmp_path / "out.json").read_text())["verifier"] == "mine.partial"
    # the same name, and yet another verifier: step 0 tells
    answered(tmp_path / "a" / "eval_000000.jsonl", "accuracy_reward", [False, True, False])
    answered(tmp_path / "b" / "eval_000000.jsonl", "accuracy_reward", [False, True, True])
    other = answered(tmp_path / "c" / "eval_000009.jsonl", "accuracy_reward", [True, True, True])
    refused = run_python("tools/evaluate.py", "--compare", strict, other)
    assert refused.returncode == 2 and "2 equal answers" in refused.stderr
    answered(tmp_path / "b" / "eval_000009.jsonl", "accuracy_reward", [True] * 3, ("a", "b", "c"))
    refused = run_python("tools/evaluate.py", "--compare", strict, lax)
    assert refused.returncode == 2 and "1 equal answers, of these files or of step 0" in refused.stderr
    unsaid = answered(tmp_path / "c" / "old.jsonl", "", [False, True, True])
    assert "does not say which verifier" in run_python("tools/evaluate.py", "--compare", strict, unsaid).stdout


def test_compare_pairs_the_questions(quickstart_model, sums, tmp_path):
    """A model against itself, and against a record in which some answers were changed."""
    base = run_python(
        "tools/evaluate.py",
        "--model",
        quickstart_model,
        "--dataset",
        sums,
        "--max_tokens",
        40,
        "--output",
        tmp_path / "a.json",
    )
    assert base.returncode == 0, base.stderr
    rows = read_jsonl(tmp_path / "a.completions.jsonl")
    wrong = [row for row in rows if not row["completions"][0]["correct"]][:6]
    right = [row for row in rows if row["completions"][0]["correct"]][:1]
    for row in wrong + right:
        row["completions"][0] |= {"correct": row in wrong, "text": "another answer"}
    better = write_rows(tmp_path / "b.completions.jsonl", rows)
    same = run_python(
        "tools/evaluate.py",
        "--compare",
        quickstart_model,
        tmp_path / "a.completions.jsonl",
        "--dataset",
        sums,
        "--max_tokens",
        40,
    )
    assert same.returncode == 0 and "better on 0 questions, worse on 0" in same.stdout and "p = 1" in same.stdout, (
        same.stdout + same.stderr
    )
    result = run_python(
        "tools/evaluate.py", "--compare", tmp_path / "a.completions.jsonl", better, "--output", tmp_path / "both.json"
    )
    assert result.returncode == 0 and "better on 6 questions, worse on 1" in result.stdout, (
        result.stdout + result.stderr
    )
    comparison = json.loads((tmp_path / "both.json").read_text())["comparison"]
    assert comparison["p_value"] == pytest.approx(0.125) and comparison["difference"] == pytest.approx(5 / 60)
    other = write_rows(tmp_path / "c.completions.jsonl", rows[1:])
    refused = run_python("tools/evaluate.py", "--compare", better, other)
    assert refused.returncode == 2 and "did not answer the same questions (60 and 59" in refused.stderr
    twice = write_rows(
        tmp_path / "d.completions.jsonl", [{**row, "completions": row["completions"] * 2} for row in rows]
    )
    assert "A has 1 completions a question, B 2" in run_python("tools/evaluate.py", "--compare", better, twice).stdout
    bare = write_rows(tmp_path / "e.completions.jsonl", [{"prompt": "p", "completions": [{"correct": True}]}])
    for arguments, message in (
        ((bare, better), ":1: field 'gold' is missing"),
        ((tmp_path / "a.json", better), "give its answers, "),
        ((better, better, "--output", tmp_path), "--output"),
    ):
        refused = run_python("tools/evaluate.py", "--compare", *arguments)
        assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr


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


def test_a_verifier_that_only_fails_is_no_accuracy(quickstart_model, sums, tmp_path):
    (tmp_path / "broken.py").write_text(
        "def reward(completion, gold):\n"
        "    if '<answer>' not in completion.text:\n        raise KeyError('no such field')\n    return 1.0\n"
        "def never(completion, gold):\n    raise KeyError('no such field')\n"
    )
    settings = ("--model", quickstart_model, "--dataset", sums, "--max_tokens", 4, "--verifier", "broken.reward")
    few = run_python("tools/evaluate.py", *settings, "--max_prompts", 5, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (
        few.returncode == 2
        and "--verifier broken.reward: it failed on all 5 completions" in few.stderr
        and "accuracy" not in few.stdout
    ), few.stderr
    assert few.stderr.count("KeyError") == 1  # five failures, one line
    never = run_python("tools/evaluate.py", *settings[:-1], "broken.py:never", cwd=tmp_path)
    assert never.returncode == 2 and "fails on a made-up completion" in never.stderr  # before the model is loaded
    many = run_python("tools/evaluate.py", *settings, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert many.returncode == 2 and "failed on 20 completions in a row" in many.stderr, many.stderr
