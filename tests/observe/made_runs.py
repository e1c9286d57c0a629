"""Folders of runs, made up by hand."""

import json

import numpy as np

from mindrlhf_lite.observe.writers import write_completions


def completion(prompt, text, reward, outcome="wrong", row=1):
    common = {
        "gold": "15",
        "rewards": {"qwen_accuracy_reward": reward},
        "advantage": 0.0,
        "tokens": len(text),
        "finish_reason": "stop",
        "group": row,
        "row": row,
    }
    return {"prompt": prompt, "completion": text, "reward": reward, "outcome": outcome, **common}


def answers(texts):
    return [
        {
            "index": index,
            "source": "sums",
            "prompt": f"question {index}=",
            "gold": "15",
            "completions": [{"text": text, "tokens": 3, "finish_reason": "stop", "correct": text == "15"}],
        }
        for index, text in enumerate(texts)
    ]


def make_run(folder, offset, settings=None, is_evaluated=True):
    """40 steps with made-up metrics, completions of steps 1 and 40, evaluations before and after."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for step in range(1, 41):
        values = {
            "reward/mean": offset + step / 40,
            "reward/outcome/correct": step / 50 * (1 - offset / 3),
            "loss/kl": (1 + offset) * step * 1e-3,
        }
        values["loss/total"] = offset + 0.01 * rng.standard_normal()
        rows.append({"step": step, **values, "completion/mean_tokens": 20.0 + offset + step / 10})
    rows[19]["eval/accuracy"], rows[39]["eval/accuracy"] = 0.4 + offset / 10, 0.8 + offset / 10
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_completions(
        folder / "completions",
        "step_000001",
        [completion("a=", "<think></think>3", 0.0), completion("b=", "15", 1.0, "correct")],
    )
    late = [
        completion("a=", "<think>14. Wait, 15</think>15", 1.0, "correct"),
        completion("b=", "<script>alert(1)</script>", 0.0),
        completion("c=", "<b>4</b>", 0.5),
        completion("c=", "5", 0.2),
    ]
    write_completions(folder / "completions", "step_000040", late + late[1:] * int(2 * offset))
    if is_evaluated:
        write_completions(folder / "completions", "eval_000000", answers(["1", "15", "3"]))
        write_completions(folder / "completions", "eval_000040", answers(["15", "15", "4"]))
    if settings is not None:
        interval = {"num_questions": 3, "num_samples": 1, "pass_at": {"1": 0.5}, "interval_95": [0.1, 0.9]}
        accuracy = {"before": {"accuracy": 0.3, **interval}, "after": {"accuracy": 0.8, **interval}}
        (folder / "summary.json").write_text(
            json.dumps({"steps": 40, "seconds": 12.0, "accuracy": accuracy, "config": settings})
        )
    return folder


def settings(weight, folder):
    return {
        "rl_config": {"output_dir": str(folder), "beta": 0.04, "num_generations": 8},
        "reward_config": {"verifier_weight": [1.0, weight]},
    }
