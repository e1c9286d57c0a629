"""A run with a curriculum: the same on two ranks, and resumed."""

import json

import pytest
from distributed.small_runs import EXACT, as_it_was_after_step, metrics, msrun, single, without_times
from helpers import run_python

CURRICULUM = ("--data_config.curriculum.column=level", "--rl_config.save_ckpt_interval=1")


@pytest.fixture(scope="module")
def sums(data, tmp_path_factory):
    """Rows of three levels, and a run over them."""
    folder = tmp_path_factory.mktemp("curriculum")
    rows = [{"question": f"{n}+{n}=", "answer": str(2 * n), "level": n % 3} for n in range(1, 31)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    what = ("--file_path", folder / "rows.jsonl", "--dataset_type", "arithmetic", "--keep_columns", "level")
    where = ("--tokenizer_dir", data / "model", "--output_path", folder / "rows.mindrecord")
    result = run_python("tools/rlhf_data.py", *what, *where)
    assert result.returncode == 0, result.stderr
    more = (*CURRICULUM, "--dataset_file", folder / "rows.mindrecord")
    result = single(data, folder / "whole", *more)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, more


def test_it_is_measured(sums):
    rows = metrics(sums[0] / "whole")
    for row in rows:
        assert sum(row[f"curriculum/{level}/share"] for level in range(3)) == pytest.approx(1)
    assert any(rows[-1][f"curriculum/{level}/pass_rate"] != 0.5 for level in range(3))


def test_a_resumed_run_draws_the_same(data, sums):
    folder, more = sums
    as_it_was_after_step(folder / "whole", folder / "resumed", 1)
    result = single(data, folder / "resumed", *more, "--resume_training", "true", is_warm=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert without_times(metrics(folder / "whole")) == without_times(metrics(folder / "resumed"))
    for path in sorted((folder / "whole/completions").glob("step_*.jsonl")):
        assert path.read_bytes() == (folder / "resumed/completions" / path.name).read_bytes()
    other = single(data, folder / "resumed", *more[1:], "--resume_training", "true")
    assert other.returncode != 0 and "data_config.curriculum.column was 'level'" in other.stdout + other.stderr


def test_two_ranks_draw_the_same(data, sums):
    folder, more = sums
    code, text, logs = msrun(2, data, folder / "two", *more)
    assert code == 0, text + logs
    for a, b in zip(metrics(folder / "whole"), metrics(folder / "two"), strict=True):
        for key in (*EXACT, *(key for key in a if key.startswith("curriculum/"))):
            assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-7), (a["step"], key)


def test_scorers_of_tasks_need_their_rows(data, sums):
    result = single(data, sums[0] / "other", *sums[1], "--verifier_function", "reasoning_gym_reward,format_reward")
    assert result.returncode == 2 and "row 1 is of no task" in result.stderr, result.stdout + result.stderr
