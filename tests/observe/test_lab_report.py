"""tools/lab_report.py: what a page holds, by hand-made runs; a browser draws its curves."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from helpers import run_python

from mindrlhf_lite.observe.lab_curves import COLOURS, mean_and_range, smooth
from mindrlhf_lite.observe.runs import incomparable, names_of, read_run, unhealthy
from mindrlhf_lite.observe.self_correction import RECOMPUTED, find_self_correction
from mindrlhf_lite.observe.worth_reading import best_and_worst, most_improved, self_corrections
from mindrlhf_lite.observe.writers import write_completions


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("<think>7+8=14. Wait, that is off: 15</think>15", "wait"),
        ("<think>7+8=14, let me check again: 15</think>15", "checks again"),
        ("<think>It is 14. Let's recompute it: 15.</think>15", "computes again"),
        ("<think>14. That is wrong, it is 15", "finds a mistake"),  # cut off while thinking
        ("<think>14. No, 15.</think>15", "takes it back"),
        ("<think>7+8=14,等等,应该是15</think>15", "wait"),
        ("<think>7+8=14, 不对, 15</think>15", "finds a mistake"),
        ("<think>7+8=14,3*4+1=13,7+8=15</think>15", RECOMPUTED),
        ("<think>2*3-1=6 so 2*3-1=5</think>5", RECOMPUTED),
        ("<think>7+8=15,7+8=14</think>14", None),  # right first
        ("<think>7+8=14,17+8=25</think>15", None),  # another sum
        ("<think>7+8=15</think>wait, no, 14", None),  # outside the thinking
        ("Wait, 15", None),  # no thinking
        ("<think>all waiters waited</think>3", None),  # part of a word
        ("<think>It was 15. Wait</think>15", None),  # nothing follows
    ],
)
def test_signs_of_self_correction(text, rule):
    found = find_self_correction(text)
    assert (found.rule if found else None) == rule
    if found:
        assert text.startswith("<think>") and found.start >= 7 and text[found.start : found.stop].strip()


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


def test_completions_that_are_chosen(tmp_path):
    run = read_run(str(make_run(tmp_path / "run", 0.0)), "run")
    best, worst = best_and_worst(run)
    assert [example.prompt for example in best] == ["a=", "c=", "b="] and best[0].heading.startswith(
        "step 40, reward 1, correct"
    )
    assert [example.completion for example in worst] == [
        "<script>alert(1)</script>",
        "5",
        "<think>14. Wait, 15</think>15",
    ]
    ((before, after),) = most_improved(run)  # question 1 was right before, question 2 still is not
    assert (before.prompt, before.completion, after.completion) == ("question 0=", "1", "15")
    (found,) = self_corrections(run)
    assert found.mark.rule == "wait" and found.completion[found.mark.start : found.mark.stop] == "Wait"
    assert run.self_correction_points() == [(1.0, 0.0), (40.0, 0.25)]
    trained_twice = read_run(str(make_run(tmp_path / "other", 0.0, is_evaluated=False)), "other")
    assert [(old.completion, new.completion) for old, new in most_improved(trained_twice)] == [
        ("<think></think>3", "<think>14. Wait, 15</think>15")
    ]


def test_curves_start_with_the_accuracy_before_training(tmp_path):
    run = read_run(str(make_run(tmp_path / "run", 0.0, {})), "run")
    assert run.points("eval/accuracy") == [(0.0, 0.3), (20.0, 0.4), (40.0, 0.8)]
    assert smooth([(1, 0.0), (2, 1.0), (3, 1.0)]) == [(1, 0.0), (2, 0.3), (3, pytest.approx(0.51))]


def test_names_that_tell_runs_apart():
    assert names_of(["/x/a", "/x/b"]) == ["a", "b"] and names_of(["/x/a", "/y/a"]) == ["x/a", "y/a"]
    with pytest.raises(ValueError, match="twice"):
        names_of(["/x/a", "/x/a"])


def judged(folder, name, verdicts, settings=None):
    """A run whose evaluation before training gave three texts these verdicts."""
    run = make_run(folder / name, 0.0, settings or {})
    rows = answers(["1", "15", "3"])
    for row, verdict in zip(rows, verdicts, strict=True):
        row["completions"][0]["correct"], row["verifier"] = verdict, name
    write_completions(run / "completions", "eval_000000", rows)
    return read_run(str(run), name)


def test_what_cannot_be_compared_is_said(tmp_path):
    strict, partial = judged(tmp_path, "strict", [False, True, False]), judged(tmp_path, "partial", [True, True, False])
    first, second, third = incomparable([strict, partial])
    assert "different verifiers (strict by strict; partial by partial)" in first
    assert "1 equal answers are right in one of strict and partial" in second and "--verifier NAME" in third
    assert incomparable([strict]) == [] and incomparable([strict, strict]) == []
    other = judged(tmp_path, "other", [False, True, False], {"reward_config": {"verifier_function": ["a"]}})
    same = judged(tmp_path, "same", [False, True, False], {"reward_config": {"verifier_function": ["b"]}})
    assert any("Verifiers of the reward differ" in line for line in incomparable([other, same]))


def test_what_was_unhealthy_is_said(tmp_path):
    run = make_run(tmp_path / "run", 0.0, {})
    finding = {"check": "kl_runaway", "first_step": 3, "last_step": 9, "what": "the KL is 4"}
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "health": [finding]}))
    assert unhealthy([read_run(str(run), "a")]) == ["a was unhealthy from step 3 to 9 (kl_runaway): the KL is 4."]
    stopped = make_run(tmp_path / "stopped", 0.0)
    with (stopped / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": step, "health/failing": 1.0}) + "\n" for step in (41, 42))
    (line,) = unhealthy([read_run(str(stopped), "b")])
    assert line.startswith("b was unhealthy in 2 step(s), the first of them 41")


def test_ranks_are_a_setting(tmp_path):
    run = make_run(tmp_path / "run", 0.0, {})
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "world_size": 4}))
    assert read_run(str(run), "run").settings == {"ranks": 4}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    base, other = (
        make_run(folder / "base", 0.0, settings(0.1, "base")),
        make_run(folder / "no_format", 0.5, settings(0.0, "no_format")),
    )
    unfinished = make_run(folder / "unfinished", 1.0)
    result = run_python("tools/lab_report.py", base, other, unfinished, "--output", folder / "report")
    assert result.returncode == 0, result.stderr
    return folder / "report"


def test_the_page(report):
    page = (report / "report.html").read_text()
    assert page.count("<figure") == page.count("<svg") == len(list(report.glob("*.png"))) == 7
    # self-contained: nothing is fetched, nothing runs, texts of models are text
    assert (
        not re.search(r"<(script|link|img|iframe)\b|@import|url\((?!#)", page)
        and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        and "<b>4</b>" not in page
    )
    table = page.partition("<h2>Settings that differ</h2>")[2].partition("<h2>")[0]
    assert "reward_config.verifier_weight" in table and "[1.0, 0.0]" in table
    assert (
        "num_generations" not in table and "output_dir" not in table and "Settings of unfinished are not known" in table
    )
    assert (
        "<mark>Wait</mark>" in page and "30.0%" in page and "80.0% (10.0% to 90.0%)" in page and "not finished" in page
    )


def test_runs_of_one_name_are_seeds(tmp_path):
    runs = [
        make_run(tmp_path / name, shift, settings(0.1, name)) for name, shift in (("a0", 0.0), ("a1", 0.5), ("b", 0.2))
    ]
    assert mean_and_range([[(0, 1.0), (1, 4.0)], [(0, 2.0)]]) == [(0, 1.5, 1.0, 2.0)]
    result = run_python("tools/lab_report.py", *runs, "--names", "a", "a", "b", "--output", tmp_path / "report")
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("a (2 seeds)") == 1 and "seeds 80.0% to 80.0%" in page and page.count("<h3>") == 2
    assert page.count("<h1>Lab report: a, b</h1>") == 1 and "Runs of one name are seeds" in page


def test_names_are_text(tmp_path):
    run = make_run(tmp_path / "run", 0.0)
    result = run_python(
        "tools/lab_report.py",
        run,
        make_run(tmp_path / "other", 0.5),
        "--names",
        r"a$\foo$",
        "_b",
        "--output",
        tmp_path / "report",
    )
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("_b</text>") == page.count("$\\foo$</text>") == 7


def test_damaged_files_are_named(tmp_path):
    run = make_run(tmp_path / "run", 0.0)
    (run / "completions/step_000040.jsonl").write_text('{"prompt": "a')
    result = run_python("tools/lab_report.py", run, "--output", tmp_path / "report")
    assert result.returncode == 2 and "step_000040.jsonl:1: not valid JSON" in result.stderr


def test_mistakes_are_named(tmp_path):
    for arguments, message in (
        ((tmp_path,), "no metrics.jsonl with at least one step"),
        ((tmp_path, "--names", "a", "b"), "2 names for 1 runs"),
        ((tmp_path, tmp_path), "a run is given twice"),
    ):
        result = run_python("tools/lab_report.py", *arguments, "--output", tmp_path / "report")
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.full
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's package chromium")
def test_a_browser_draws_every_curve(report, tmp_path):
    """Headless Chromium, without a network: inside every figure's box there are pixels of every run's colour."""
    from PIL import Image

    size = 1300, 4000
    script = (
        "<script>document.body.dataset.boxes = JSON.stringify([...document.querySelectorAll('figure')].map(f => "
        "[f.id, f.getBoundingClientRect()]))</script>"
    )
    probe = tmp_path / "probe.html"  # the page, and a script that says where its figures are
    probe.write_text((report / "report.html").read_text().replace("</body>", script + "</body>"))

    def chromium(page, *options):
        flags = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--window-size={size[0]},{size[1]}",
            "--hide-scrollbars",
        )
        command = ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    boxes = json.loads(re.search(r'data-boxes="([^"]*)"', chromium(probe, "--dump-dom"))[1].replace("&quot;", '"'))
    assert len(boxes) == 7
    chromium(report / "report.html", f"--screenshot={tmp_path / 'page.png'}")
    pixels = np.array(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    for name, box in boxes:
        assert box["bottom"] < size[1]
        part = pixels[int(box["top"]) : int(box["bottom"]), int(box["left"]) : int(box["right"])]
        for colour in COLOURS[:3]:
            wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
            columns = (np.abs(part - wanted).max(-1) < 12).any(0)
            lines_end = np.flatnonzero(columns)
            assert lines_end.size and np.ptp(lines_end) > 0.5 * part.shape[1], (
                name,
                colour,
            )  # a line over the plot, not only its entry in the legend
