"""Run folders that are damaged, or made to mislead: every reader of them ends in words, or in a whole page."""

import json
import math
import os

import numpy as np
import pytest
from observe.made_runs import answers, completion, make_run, settings

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.observe.compare import entries_of, read_step
from mindrlhf_lite.observe.dump import statistics, step_file
from mindrlhf_lite.observe.lab_report import write_report
from mindrlhf_lite.observe.plots import write_plots
from mindrlhf_lite.observe.run_files import check_question, read_json_lines, read_metrics
from mindrlhf_lite.observe.runs import read_run

METRICS, SUMMARY = "metrics.jsonl", "summary.json"
STEP, EVAL = "completions/step_000040.jsonl", "completions/eval_000040.jsonl"


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def but(row, **changed):
    return lines({**row, **changed})


def summary(**changed):
    whole = {"accuracy": 0.5, "interval_95": [0.1, 0.9], "num_questions": 3}
    return json.dumps({"seconds": 1.0, "accuracy": {"after": {**whole, **changed}}})


LINE = {"stage": "weight", "name": "a", "part": "", **statistics(np.arange(4.0))}
ROW, ANSWER = completion("a=", "<think></think>3", 0.0), answers(["15"])[0]
HOSTILE = [
    (METRICS, "[1]\n{}\n", ":1: an object with a step"),
    (METRICS, lines({"step": "1"}, {"step": 2}), ":1: an object with a step"),
    (METRICS, lines({"step": 1, "loss/total": None}, {"step": 2}), ":1: 'loss/total' is None; a number is needed"),
    (METRICS, lines({"step": 1, "loss/total": 10**400}), "a number is needed"),
    (METRICS, lines({"step": 1}) + "{oops\n" + lines({"step": 2}), ":2: not valid JSON"),
    (METRICS, '{"step": 1, "x": ' + "[" * 5000 + "]" * 5000 + "}\n" + lines({"step": 2}), "nested too deeply"),
    (METRICS, b"\xff\xfe\0", "UTF-16"),
    (SUMMARY, "[]", "a JSON object is needed"),
    (SUMMARY, '{"config": ' + '{"a": ' * 500 + "1" + "}" * 501, "nested too deeply"),
    (SUMMARY, '{"accuracy": {"after": 1}}', "accuracy of 'after': an object is needed"),
    (SUMMARY, summary(accuracy=float("nan")), "accuracy=nan: a number from 0 to 1"),
    (SUMMARY, summary(interval_95=[0.1]), "a list of two numbers"),
    (SUMMARY, '{"health": 5}', "health=5: a list is needed"),
    (SUMMARY, '{"health": [1]}', "entry 1 of health: an object is needed"),
    (SUMMARY, '{"health": [{"check": "x"}]}', "entry 1 of health: field 'first_step' is missing"),
    (SUMMARY, json.dumps({"seconds": "x"}), "seconds='x': a finite number"),
    (SUMMARY, json.dumps({"config": 1}), "config=1: an object"),
    (STEP, but(ROW, reward=None), ":1: reward=None: a finite number"),
    (STEP, but(ROW, reward=float("nan")), "reward=nan"),
    (STEP, but(ROW, completion=["x"]), "completion=\\['x'\\]: a text"),
    (STEP, "17\n", ":1: an object is needed, not 17"),
    (STEP, lines({"prompt": "a="}), "field 'completion' is missing"),
    (EVAL, but(ANSWER, completions=[]), "completions=\\[\\]: a list of at least one answer"),
    (EVAL, but(ANSWER, completions=[{"text": "x"}]), "completion 1: field 'correct' is missing"),
    (EVAL, but(ANSWER, completions=[{"correct": True}]), "completion 1: field 'text' is missing"),
    (EVAL, but(ANSWER, index=-1), "index=-1"),
]


@pytest.mark.parametrize(("name", "content", "said"), HOSTILE)
def test_what_cannot_be_read_is_named(tmp_path, name, content, said):
    run = make_run(tmp_path / "run", 0.0, settings(0.1, tmp_path))
    (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said) as caught:
        write_report([read_run(str(run), "run")], tmp_path / "report")
    assert name in str(caught.value)


MAKERS = [os.mkfifo, os.mkdir, lambda path: os.symlink("nothing", path)]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", [STEP, EVAL])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, make, name):
    run = make_run(tmp_path / "run", 0.0, settings(0.1, tmp_path))
    (run / name).unlink()
    make(run / name)
    with pytest.raises(UserError, match=rf"{name}: a regular file is needed"):
        write_report([read_run(str(run), "run")], tmp_path / "report")


@pytest.mark.parametrize("make", MAKERS)
def test_a_dump_that_is_no_file_is_named_and_not_waited_for(tmp_path, make):
    path = step_file(tmp_path, 1, 0)
    path.parent.mkdir()
    make(path)
    with pytest.raises(UserError, match="a regular file is needed"):
        read_step(tmp_path, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {STEP: but(ROW, completion="\ud800 <think>7+8=14, wait \x1b[2J</think>\0", prompt="\ud800")},
        {STEP: but(ROW, reward=1e308, tokens=2**62), EVAL: lines(ANSWER, ANSWER)},
        {"completions/step_\u00b2.jsonl": "no run wrote this", "completions/eval_x.jsonl": "nor this"},
        {STEP: "", EVAL: ""},
        {METRICS: "".join(f'{{"step": {n}, "loss/total": {x}}}\n' for n, x in ((1, "NaN"), (2, "Infinity")))},
        {METRICS: lines({"step": 2**62, "loss/total": 1e308}, {"step": 0, "loss/total": -1e308})},
        {METRICS: lines({"step": 1, "loss/total": 1.0}) + '{"step": 2, "loss'},
    ],
)
def test_what_is_odd_gives_a_whole_page(tmp_path, changes):
    run = make_run(tmp_path / "run", 0.0, settings(0.1, tmp_path))
    for name, content in changes.items():
        (run / name).write_text(content)
    page = write_report([read_run(str(run), "a\ud800\x1b[2J\nb")], tmp_path / "report").read_text()
    assert page.endswith("</body></html>\n")
    assert write_plots(read_metrics(run / METRICS), tmp_path / "plots")


@pytest.mark.parametrize(
    "line",
    [
        "17",
        "[" * 5000,
        json.dumps({"stage": "weight", "name": "a", "part": ""}),
        json.dumps({**LINE, "stage": {}}),
        json.dumps({**LINE, "stage": "none that there is"}),
        json.dumps({**LINE, "square": -1.0}),
        json.dumps({**LINE, "count": 10**400}),
    ],
)
def test_dumps_that_are_none(tmp_path, line):
    path = step_file(tmp_path, 1, 0)
    path.parent.mkdir()
    path.write_text(line)
    with pytest.raises(UserError, match="not a dump"):
        read_step(tmp_path, 1)


def test_a_dump_of_a_run_that_diverged_is_compared(tmp_path):
    path = step_file(tmp_path, 1, 0)
    path.parent.mkdir()
    values = ({"sum": math.inf, "max": math.inf}, {"sum": -math.inf, "min": math.nan})
    path.write_text(lines(*({**LINE, **value, "box": [n]} for n, value in enumerate(values))))
    (entry,) = entries_of(read_step(tmp_path, 1)).values()
    assert math.isnan(entry.sum)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gold": 1}, "gold=1: a text"),
        ({"columns": [1]}, "columns=\\[1\\]: an object"),
        ({"completions": [{"correct": 1}]}, "correct=1: true or false"),
        ({"completions": [{"correct": True, "finish_reason": ["x"]}]}, "one of stop"),
        ({"completions": {"correct": True}}, "a list of at least one answer"),
    ],
)
def test_answers_that_are_compared_are_whole(tmp_path, changed, said):
    (tmp_path / "a.jsonl").write_text(but(ANSWER, **changed))
    with pytest.raises(UserError, match=said):
        read_json_lines(tmp_path / "a.jsonl", check_question)
