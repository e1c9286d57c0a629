"""The best evaluation of a run, and its end where none is better any more."""

import json

import pytest
from distributed.small_runs import single
from helpers import read_jsonl

from mindrlhf_lite.evaluation.accuracy import Evaluation
from mindrlhf_lite.trainer.best import Best, best_of, by_step, evaluations_without_gain


def evaluations(**accuracies):
    return {name: Evaluation(10, 1, accuracy, 0.0, 1.0, {1: accuracy}) for name, accuracy in accuracies.items()}


def test_the_best_is_the_earliest_of_the_highest():
    found = by_step(evaluations(before=0.3, step_20=0.7, step_10=0.7, after=0.6), 30)
    assert [each.step for each in found] == [0, 10, 20, 30]
    assert best_of(found) == Best(10, 0.7) and best_of([]) is None


@pytest.mark.parametrize(
    ("accuracies", "min_delta", "waited"),
    [
        ([0.28], 0.0, 0),
        ([0.28, 0.70, 0.71, 0.69], 0.02, 2),
        ([0.28, 0.70, 0.71, 0.69], 0.0, 1),
        ([0.28, 0.70, 0.70], 0.0, 1),  # as high is no gain
        ([0.5, 0.51, 0.52, 0.53], 0.015, 3),  # small steps up are measured against the highest before
        ([0.5, 0.4, 0.3, 0.6], 0.0, 0),
    ],
)
def test_evaluations_without_gain(accuracies, min_delta, waited):
    assert evaluations_without_gain([Best(step, each) for step, each in enumerate(accuracies)], min_delta) == waited


def test_a_run_that_gains_nothing_ends_and_keeps_its_best(data):
    """Nothing can gain more than 100 %: two evaluations after the one before training, and it is over. Resumed, it is
    over at once.
    """
    folder = data.parent / "stopped"
    settings = (
        "--rl_config.max_steps=6",
        f"--rl_config.eval_dataset_file={data / 'held_out.mindrecord'}",
        "--rl_config.eval_interval=1",
        "--rl_config.eval_max_prompts=4",
        "--rl_config.save_best=true",
        "--rl_config.save_ckpt_interval=5",
        "--rl_config.early_stopping.patience=2",
        "--rl_config.early_stopping.min_delta=1.0",
    )
    result = single(data, folder, *settings)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "early stopping after step 2: 2 evaluation(s) without a gain of more than 1" in result.stdout
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")][-1] == 2
    summary = json.loads((folder / "summary.json").read_text())
    start = json.loads((folder / "run.json").read_text())
    assert start["first_step"] == 1 and start["last_step"] > 2 and start["config"] == summary["config"]
    accuracies = {name: each["accuracy"] for name, each in summary["accuracy"].items()}
    assert list(accuracies) == ["before", "step_1", "after"] and summary["steps"] == 2
    assert summary["best"]["accuracy"] == max(accuracies.values())
    assert (folder / "best/model.safetensors").is_file() == (summary["best"]["step"] > 0)
    assert (folder / "hf/model.safetensors").is_file() and (folder / "checkpoints/step_2").is_dir()
    again = single(data, folder, *settings, "--resume_training")
    assert again.returncode == 0 and "early stopping after step 2" in again.stdout, again.stdout + again.stderr
