"""The scripts of examples/, with options that start nothing, from a folder of somebody else's."""

import csv

import pytest
from helpers import ROOT, run, run_python

SCRIPTS = ("examples/quickstart/run_grpo.sh", "examples/qwen_grpo/run_grpo.sh")


def test_a_job_of_an_option_that_starts_nothing_runs_the_script_once(tmp_path):
    (tmp_path / "show.py").write_text(
        "import os, sys\nprint(os.environ['MS_WORKER_NUM'], sys.argv[1:], 'MS_ROLE' in os.environ)\n"
    )
    for option in ("--dry_run", "--only_save_strategy", "--help"):
        result = run_python(
            "tools/start_job.py", "--ranks", 3, "--log_dir", tmp_path / "log", tmp_path / "show.py", option
        )
        assert (result.returncode, result.stdout) == (0, f"3 ['{option}'] False\n"), result.stderr
    main = (ROOT / "examples/qwen_grpo/main.py", "--config", ROOT / "examples/quickstart/grpo_config.yaml")
    mistyped = run_python("tools/start_job.py", "--ranks", 2, *main, "--dry-run")
    assert mistyped.returncode == 2 and "did you mean --dry_run" in mistyped.stderr
    assert "scheduler" not in mistyped.stderr
    missing = run_python("tools/start_job.py", "--ranks", 2, "--log_dir", tmp_path / "log", tmp_path / "none.py")
    assert missing.returncode == 2 and "none.py: no such script" in missing.stderr
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_the_plan_once_and_ends(tmp_path, script):
    """Also where a file of the caller's hides one of Python's modules, and with a verifier in the caller's folder."""
    (tmp_path / "random.py").write_text("raise RuntimeError('not the random of Python')\n")
    (tmp_path / "mine.py").write_text("def short(completion, gold):\n    return float(completion.num_tokens < 9)\n")
    own = ("--verifier_function", "accuracy_reward,mine.py:short", "--verifier_weight", "1.0,0.1")
    result = run(["bash", ROOT / script, "--dry_run", f"--rl_config.output_dir={tmp_path}/run", *own], cwd=tmp_path)
    assert result.returncode == 0 and result.stdout.count("a step: ") == 1, result.stdout + result.stderr
    assert not (tmp_path / "run").exists()
    broken = run(["bash", ROOT / script, "--dry_run", "--verifier_function", "mine.py:long"], cwd=tmp_path)
    assert broken.returncode == 2 and "mine.py, which has no 'long'" in broken.stderr, broken.stdout + broken.stderr


@pytest.mark.parametrize("example", ["quickstart", "tools", "smollm2"])
def test_mistaken_options_end_before_anything_is_built(tmp_path, example):
    script = ROOT / f"examples/{example}/run_grpo.sh"
    for words, problem in (
        (("--output",), "--output needs a value"),
        (("--ranks", "two"), "runs on one rank" if example == "smollm2" else "a positive number is needed"),
        (("--resume", "nowhere"), f"--resume {tmp_path}/nowhere: no checkpoints there"),
    ):
        result = run(["bash", script, *words], cwd=tmp_path)
        assert result.returncode == 2 and problem in result.stderr and not result.stdout
    assert run(["bash", script, "--help"]).stdout.startswith("usage: bash examples/")


@pytest.mark.parametrize("recipe", ["r1_recipe", "rlhf_recipe"])
def test_mistaken_options_of_a_recipe_end_before_anything_is_built(tmp_path, recipe):
    script = ROOT / f"examples/{recipe}/run.sh"
    for words, problem in (
        (("--output",), "needs a value"),
        (("--seed", "x"), "a whole number"),
        (("--fast",), "unknown"),
    ):
        result = run(["bash", script, *words], cwd=tmp_path)
        assert result.returncode == 2 and problem in result.stderr and not result.stdout
    assert run(["bash", script, "--help"]).stdout.startswith(f"usage: bash examples/{recipe}/run.sh")


def short_recipe(name, folder):
    """The text of its report; a second call goes on where it was: all is there."""
    command = ["bash", ROOT / f"examples/{name}/run.sh", "--short", "--output", folder]
    result = run(command, cwd=folder.parent, timeout=1800, RECIPE_NO_BUILD="1")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    again_at_once = run(command, cwd=folder.parent, timeout=120, RECIPE_NO_BUILD="1")
    assert again_at_once.returncode == 0 and "step " not in again_at_once.stdout
    return (folder / "report.md").read_text()


@pytest.mark.full
def test_the_short_r1_recipe_goes_through_all_stages(tmp_path):
    report = short_recipe("r1_recipe", tmp_path / "r1")
    accuracy = {
        line.split(" | ")[0][2:]: float(line.split(" | ")[1][:-1]) for line in report.splitlines() if "% |" in line
    }
    first, cold, grpo, again, *_ = accuracy.values()
    assert len(accuracy) == 7 and first < cold and first < grpo and first < again, accuracy


@pytest.mark.full
def test_the_short_rlhf_recipe_over_optimises_its_reward_model(tmp_path):
    report = short_recipe("rlhf_recipe", tmp_path / "rlhf")
    with (tmp_path / "rlhf/curve.csv").open() as file:
        points = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [point["updates"] for point in points] == [*range(13)] and (tmp_path / "rlhf/curve.png").is_file()
    first, last = points[0], points[-1]
    assert abs(first["kl"]) < 0.5 and last["kl"] > 10  # it begins as the reference
    assert last["score"] > first["score"] + 0.5 and last["true"] < first["true"] - 0.1
    assert sum(line.startswith("| ") and line[2].isdigit() for line in report.splitlines()) == 7  # every second one
