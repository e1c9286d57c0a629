"""A run's files as they are read while they are written: half lines, resumes, damages, long curves."""

import json
import math
import os
import re

import numpy as np
from helpers import ROOT
from watch.made import held, lines, make_watched, metrics_row

from mindrlhf_lite.observe.concerns import TEXTS, Concern
from mindrlhf_lite.observe.health import CHECKS
from mindrlhf_lite.watch.columns import Columns, as_json, thin
from mindrlhf_lite.watch.run import WatchedRun, lines_of
from mindrlhf_lite.watch.tail import Tail
from mindrlhf_lite.watch.views import Views
from mindrlhf_lite.watch.words import _CHINESE_CONCERNS, WORDS, language_of, text_of


def steps_of(found):
    return [row["step"] for row in found[1]]


def test_a_row_counts_once_its_line_is_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == (False, [])  # no run yet
    path.write_text('{"step": 1, "a": 0.5}\n{"step": 2, "a"')
    assert tail.read() == (False, [{"step": 1, "a": 0.5}])
    with path.open("a") as file:
        file.write(": NaN}\n")
    is_void, (row,) = tail.read()
    assert not is_void and row["step"] == 2 and math.isnan(row["a"])
    assert tail.read() == (False, []) and not tail.damage


def test_a_resumed_run_is_read_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines({"step": step} for step in range(1, 6)))
    tail = Tail(path)
    assert steps_of(tail.read()) == [1, 2, 3, 4, 5]
    (tmp_path / "new").write_text(
        lines({"step": step} for step in range(1, 4)) + '{"step": 4, "b": 1.0}\n{"step": 5}\n'
    )
    os.replace(tmp_path / "new", path)  # as MetricsWriter does: longer than before
    is_void, rows = tail.read()
    assert is_void and rows[3] == {"step": 4, "b": 1.0} and len(rows) == 5
    path.write_text(lines([{"step": 1}]))  # in place, shorter
    assert tail.read() == (True, [{"step": 1}])
    path.unlink()
    assert tail.read() == (True, [])


def test_damage_is_said_and_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n[]\n{"step": 2, "a": "x"}\n\x00\n{"step": 3}\n')
    tail = Tail(path)
    assert steps_of(tail.read()) == [1, 3] and tail.damage.startswith(f"{path}:2: an object with a step")
    os.mkfifo(tmp_path / "pipe")
    assert Tail(tmp_path / "pipe").read() == (False, [])  # at once


def test_a_step_that_comes_again_replaces_the_first():
    columns = Columns()
    for step, value in [(0, 9.0), (1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0)]:
        columns.add({"step": step, "a": value})
    steps, values = columns.points("a")
    assert steps.tolist() == [0, 1, 2] and values.tolist() == [9.0, 1.0, 20.0]
    assert columns.newest["a"] == 20.0 and columns.points("b")[0].tolist() == []


def test_thin_curves_keep_every_spike():
    rng = np.random.default_rng(0)
    for length in (4, 600, 601, 1201, 10_000):
        steps, values = np.arange(length, dtype=float), rng.standard_normal(length)
        values[length // 3], values[length // 2] = 50.0, -60.0
        thin_steps, thinned = thin(steps, values)
        assert len(thinned) <= 600 and (length > 600 or len(thinned) == length)
        assert thinned.max() == 50.0 and thinned.min() == -60.0
        assert thin_steps[0] == 0 and thin_steps[-1] == length - 1 and (np.diff(thin_steps) > 0).all()
        assert (values[thin_steps.astype(int)] == thinned).all()  # points of the curve, none of its own


def test_thin_curves_keep_gaps():
    values = np.zeros(10_000)
    values[2000:8000] = np.nan
    _, thinned = thin(np.arange(10_000.0), values)
    assert np.isnan(thinned).any() and np.isfinite(thinned[[0, -1]]).all()
    assert as_json([1 / 3, math.nan, math.inf, 1e200]) == [0.333333, None, None, None]


def test_how_a_run_stands(tmp_path):
    run = WatchedRun("a", make_watched(tmp_path / "a"))
    run.look()
    assert (run.state, run.step, run.last_step, run.seconds_left()) == ("ended", 12, 20, 16.0)  # 8 steps of 2 s
    with held(run.folder):
        assert run.state == "running"
    assert run.state == "ended"
    (run.folder / ".lock").write_text("process 1 on elsewhere\n")
    assert run.state == "unknown"
    (run.folder / "summary.json").write_text(json.dumps({"steps": 12}))
    assert run.state == "finished"
    (tmp_path / "empty").mkdir()
    assert WatchedRun("b", tmp_path / "empty").state == "waiting"
    (run.folder / "msrun_log").mkdir()
    (run.folder / "msrun_log/worker_0.at").write_text("step 12, update   ")
    assert run.phase == "step 12, update"


def test_warnings_of_a_run_and_damaged_files(tmp_path):
    run = WatchedRun("a", make_watched(tmp_path / "a", steps=0))
    failing = [0, 1, 2, 3, 4, 5, 6, 0]
    rows = [metrics_row(step, **{"health/kl_runaway": count}) for step, count in enumerate(failing, 1)]
    rows[-1]["reward/outcome/error"] = 0.5
    (run.folder / "metrics.jsonl").write_text(lines(rows))
    (run.folder / "run.json").write_text('{"last_step": -1}')
    run.look()
    assert run.concerns == [Concern("kl_runaway", 2, 7), Concern("verifier_fails", 8, 8, {"last": 0.5})]
    (state,) = Views([run]).state("zh")["runs"]
    assert [(each["kind"], each["is_over"]) for each in state["concerns"]] == [
        ("verifier_fails", False),
        ("kl_runaway", True),
    ]
    assert "50.0%" in state["concerns"][0]["text"] and "run.json: last_step=-1" in state["damages"][0]
    assert lines_of(run)[0] == "a: ended, step 8 of 8"


def test_answers_that_nobody_judged(tmp_path):
    """As mindrlhf_lite.sft leaves them, which has no verifier."""
    run = WatchedRun("a", make_watched(tmp_path / "a", steps=2))
    for step, text in ((0, "x"), (2, "y")):
        row = {"index": 0, "row": 1, "prompt": "q", "answer": "gold", "completion": text, "tokens": 3}
        (run.completions / f"eval_{step:06d}.jsonl").write_text(lines([row]))
    found = Views([run]).compared([(0, 0), (0, 2)], "all", 0)
    assert found["counts"] == {"all": 1, "changed": 0, "better": 0, "worse": 0}
    (row,) = found["rows"]
    assert (row["gold"], row["left"][0]["correct"], row["right"][0]["segments"][0]["text"]) == ("gold", None, "y")


def test_every_word_of_the_page_is_in_the_table():
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "mindrlhf_lite/watch/static").glob("*.js"))
    page = (ROOT / "mindrlhf_lite/watch/static/index.html").read_text(encoding="utf-8")
    used = set(re.findall(r'\bword\("(\w+)"', scripts) + re.findall(r'data-word="(\w+)"', page))
    assert len(used) > 30 and used <= WORDS.keys()
    quoted = set(re.findall(r'"(\w+)"', scripts)) | {
        "running",
        "finished",
        "ended",
        "waiting",
        "unknown",
    }  # and by state
    assert {key for key in WORDS if not key.startswith("phase_")} - used <= quoted


def test_words_are_there_in_both_languages():
    assert all(english and chinese for english, chinese in WORDS.values())
    assert _CHINESE_CONCERNS.keys() == TEXTS.keys() and {check.name for check in CHECKS} < TEXTS.keys()
    values = {"first": 0.5, "last": 0.25, "steps": 10.0, "count": 3.0}
    for kind, text in TEXTS.items():  # the same figures
        assert text.count("{") == _CHINESE_CONCERNS[kind].count("{")
        assert text_of(Concern(kind, 1, 2, values), "zh") != text_of(Concern(kind, 1, 2, values), "en")
    said = ["", "zh-CN,zh;q=0.9,en;q=0.8", "fr, zh-CN;q=0.5, en;q=0.8", "de", "en;q=0, zh;q=0.1", ",;q=x,zh" * 99]
    assert [language_of(each) for each in said] == ["en", "zh", "en", "en", "zh", "zh"]
