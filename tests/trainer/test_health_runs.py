"""Runs that go wrong end in words, and leave a checkpoint that works."""

import json

from distributed.small_runs import metrics, single, without_times
from helpers import ROOT, run_python

# weights up to 1.2 move by 0.33 in the first update, by 0.67 in the second. Every gradient counts as dead.
WRONG = (
    "--actor_config.lr_schedule.lr=1.0",
    "--actor_config.lr_schedule.warmup_step=3",
    "--rl_config.save_ckpt_interval=1",
    "--monitor_config.health.patience=2",
    "--monitor_config.health.min_grad_norm=1e9",
)


def test_a_ruined_model_is_neither_saved_nor_exported_and_a_stop_leaves_what_works(data):
    folder = data.parent / "ruined"
    result = single(data, folder, *WRONG, "--monitor_config.health.max_weight=1.6")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "error: rank 0: the trained model is ruined: after step 2, a weight reaches" in result.stderr
    assert "over monitor_config.health.max_weight=1.6; it was not saved" in result.stderr
    assert "; the newest checkpoint is after step 1\n" in result.stderr and "done:" not in result.stdout
    assert "go on with" not in result.stderr  # the same command would end there again
    assert "step 2 is unhealthy (dead_gradients, since step 1): the gradient norm is" in result.stdout
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_1"] and not (folder / "hf").exists()
    ruined = metrics(folder)
    assert [row["health/dead_gradients"] for row in ruined] == [1.0, 2.0] and ruined[1]["health/max_weight"] > 1.6

    # a checkpoint of a version that looked at nothing
    refused = single(data, folder, *WRONG, "--monitor_config.health.max_weight=0.5", "--resume_training")
    assert refused.returncode == 2 and "step_1 holds a ruined model: model." in refused.stderr, refused.stderr

    # resumed, the check that has failed in step 1 fails for the second time, and the step is the same bit for bit
    stop = ("--monitor_config.health.max_weight=0", "--monitor_config.health.on_unhealthy=stop", "--resume_training")
    stopped = single(data, folder, *WRONG, *stop)
    assert stopped.returncode == 1, stopped.stdout + stopped.stderr
    assert "stopped after step 2, unhealthy (dead_gradients since step 1: the gradient norm is" in stopped.stderr
    assert "of the checkpoints step_1 came after it began: none is from before" in stopped.stderr
    assert without_times(metrics(folder)) == without_times(ruined) and not (folder / "checkpoints/step_2").exists()


def test_save_and_export_look_at_what_they_write(data, tmp_path):
    settings = {
        "actor_config.load": str(data / "model"),
        "rl_config.dataset_file": str(data / "train.mindrecord"),
        "rl_config.output_dir": str(tmp_path / "run"),
        "rl_config.seq_length": 48,
        "generate_config.max_prompt_length": 8,
        "generate_config.sampling_config.max_tokens": 40,
        "rl_config.swap": True,
        "actor_config.optimizer.opt_offload": True,  # weights and moments come in part by part
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    result = run_python("tests/trainer/ruined_worker.py", tmp_path / "settings.json", PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["at_first"] == found["sound"] == found["sound_export"] == "" and found["steps"] == [4, 1]
    assert f"the trained model is ruined: {found['moment']} is not finite" in found["moments"]
    for refused in (found["weights"], found["export"]):
        assert f"{found['weight']} reaches 20000, over monitor_config.health.max_weight=10000" in refused
    assert found["largest"] == 20000.0 and found["left"] == ["checkpoints", "step_1", "swap", "tokenizer"]
