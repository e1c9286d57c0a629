"""tools/lab_report.py: what a page holds, by hand-made runs; a browser draws its curves."""

import json

import pytest
from observe.made_runs import answers, make_run

from mindrlhf_lite.observe.lab_curves import smooth
from mindrlhf_lite.observe.runs import incomparable, names_of, read_run, unhealthy
from mindrlhf_lite.observe.self_correction import RECOMPUTED, find_self_correction
from mindrlhf_lite.observe.worth_reading import best_and_worst, conversation, most_improved, self_corrections
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


def test_a_conversation_is_shown_as_one_reads_it():
    segments = [{"written": True, "text": "I ask."}, {"written": False, "text": "\ntool\n6\n"}]
    row = {"completion": "I ask.\ntool\n6\n7", "segments": [*segments, {"written": True, "text": "7"}]}
    assert conversation(row) == "I ask.\n[tool\n6]\n7"
    assert conversation({"completion": "plain"}) == conversation({"text": "plain"}) == "plain"
