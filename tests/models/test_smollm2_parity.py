"""A pretrained model, SmolLM2-135M-Instruct, on real text: logprobs and greedy continuations are transformers' own."""

import json

import numpy as np
import pytest
from helpers import read_jsonl, run_python

QUESTIONS = 20
pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def peer(smollm2):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)


def gsm8k(shared):
    return [json.loads(line) for line in (shared / "data/gsm8k/test.jsonl").read_text().splitlines()[:QUESTIONS]]


def test_logprobs_of_gold_solutions_equal_transformers(smollm2, peer, shared, tmp_path):
    import torch

    rows = [{"prompt": row["question"] + "\n", "completion": row["answer"]} for row in gsm8k(shared)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run_python(
        "tools/score.py",
        "--model",
        smollm2,
        "--input",
        tmp_path / "rows.jsonl",
        "--output",
        tmp_path / "scored.jsonl",
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    from transformers import AutoTokenizer

    tokenizer, differences = AutoTokenizer.from_pretrained(smollm2), []
    for row, scored in zip(rows, read_jsonl(tmp_path / "scored.jsonl"), strict=True):
        prompt, completion = (
            tokenizer(row[name], add_special_tokens=False)["input_ids"] for name in ("prompt", "completion")
        )
        assert scored["token_ids"] == completion
        with torch.no_grad():
            logprobs = torch.log_softmax(peer(torch.tensor([prompt + completion])).logits[0], -1)
        expected = logprobs[torch.arange(len(prompt) - 1, len(prompt) + len(completion) - 1), torch.tensor(completion)]
        differences.append(np.abs(np.array(scored["logprobs"]) - expected.numpy()))
    differences = np.concatenate(differences)
    print(f"{len(differences)} tokens: mean difference {differences.mean():.2e}, largest {differences.max():.2e}")
    assert differences.mean() <= 1e-4 and differences.max() <= 1e-3


def test_greedy_continuations_equal_transformers(smollm2, peer, shared, tmp_path):
    """Token by token, unless the two best logits differ by less than 1e-4 there."""
    import torch

    rows = [{"prompt": row["question"] + "\n"} for row in gsm8k(shared)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = (
        "--input",
        tmp_path / "rows.jsonl",
        "--output",
        tmp_path / "out.jsonl",
        "--temperature",
        0,
        "--max_tokens",
        32,
    )
    result = run_python("tools/generate.py", "--model", smollm2, *settings, timeout=600)
    assert result.returncode == 0, result.stderr
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    for row, ours in zip(rows, read_jsonl(tmp_path / "out.jsonl"), strict=True):
        ids = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = peer(torch.tensor([ids + ours["token_ids"]])).logits[0, len(ids) - 1 : -1]
        best = torch.topk(logits, 2, -1)
        for place, token in enumerate(ours["token_ids"]):
            gap = float(best.values[place, 0] - best.values[place, 1])
            assert token == int(best.indices[place, 0]) or gap < 1e-4, (row["prompt"][:40], place, gap)
