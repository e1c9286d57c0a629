"""tools/sweep.py: every seed of every variation once, one report; a stand-in command leaves what a run leaves."""

import json
import sys

from helpers import run_python

RUN = """import json, pathlib, sys
if "--dry_run" in sys.argv:
    sys.exit(0)
given = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
folder = pathlib.Path(given["rl_config.output_dir"])
folder.mkdir(parents=True)
seed, beta = int(given["rl_config.seed"]), float(given.get("rl_config.beta", 0))
if seed == 9:
    sys.exit(1)
(folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "reward/mean": 0.5}) + "\\n")
accuracy = {"accuracy": 0.6 + seed / 10 - beta, "interval_95": [0, 1]}
summary = {"accuracy": {"before": accuracy, "after": accuracy}, "seconds": 1.0, "config": {"rl_config": {"beta": beta}}}
(folder / "summary.json").write_text(json.dumps(summary))
"""


def test_seeds_and_variations(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    command = ("--", sys.executable, tmp_path / "run.py")
    varied = ("--seeds", 0, 1, 2, "--vary", "rl_config.beta=0,0.1", "--output", tmp_path / "out")
    result = run_python("tools/sweep.py", *varied, *command)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "out/sweep.json").read_text())
    assert list(found) == ["beta=0", "beta=0.1"] and round(found["beta=0.1"]["accuracy"], 6) == 0.6
    assert "beta=0: held-out accuracy 70.0% (95 % interval over seeds 45.2% to 94.8%), 3 seed(s)" in result.stdout
    assert "beta=0 (3 seeds)" in (tmp_path / "out/report/report.html").read_text()
    again = run_python("tools/sweep.py", *varied, *command)
    assert again.returncode == 0 and again.stdout.count("is there already") == 6


def test_a_run_that_fails_ends_the_sweep(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    result = run_python(
        "tools/sweep.py", "--seeds", 0, 9, "--output", tmp_path / "o", "--", sys.executable, tmp_path / "run.py"
    )
    assert result.returncode == 2 and "run, seed 9: its command ended with exit code 1" in result.stderr
    assert "run: held-out accuracy 60.0%" in result.stdout  # of what is done
    for arguments, message in ((("--vary", "beta"), "--vary beta: a setting"), (("--seeds", 1, 1), "each once")):
        refused = run_python("tools/sweep.py", "--seeds", 0, "--output", tmp_path, *arguments, "--", "true")
        assert refused.returncode == 2 and message in refused.stderr


def test_values_that_are_lists_and_folders_of_another_command(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    lists = ("--vary", "reward_config.verifier_weight=[1.0,0.1],[1.0,0]", "--output", tmp_path / "out")
    command = ("--", sys.executable, tmp_path / "run.py")
    result = run_python("tools/sweep.py", "--seeds", 0, 1, *lists, *command)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "out/sweep.json").read_text())
    assert list(found) == ["verifier_weight=[1.0,0.1]", "verifier_weight=[1.0,0]"]
    other = run_python("tools/sweep.py", "--seeds", 0, 1, *lists, *command, "--rl_config.beta=0.5")
    assert other.returncode == 2 and "holds the runs of another command" in other.stderr
    twice = run_python(
        "tools/sweep.py", "--seeds", 0, "--vary", "rl_config.beta=0,0", "--output", tmp_path / "o", *command
    )
    assert twice.returncode == 2 and "each once" in twice.stderr
