"""judge_reward, against a server that the test starts: marks, failures, retries, time limits, what is kept on disk."""

import time
from dataclasses import replace

import pytest
from rewards.judging_server import judging
from rewards.scoring import views

from mindrlhf_lite.config.sections.judge import JudgeConfig
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.judge import Judge
from mindrlhf_lite.rewards.judge_server import JudgeServer, Unanswered
from mindrlhf_lite.rewards.judge_settings import judge_problems
from mindrlhf_lite.rewards.reward_function import GIVE_UP_AFTER, RewardFunction
from mindrlhf_lite.types import CompletionView, Outcome, Score

KEY = "sk-of-the-test-0123456789"


def judge_of(server, folder, **changes):
    judge = Judge(JudgeConfig(address=server.address, model="marker", **changes), folder)
    judge.server = replace(judge.server, first_wait_s=0.01)
    return judge


def verdicts(judge, texts, golds=None):
    found = {}
    judge.score(list(zip(views(texts), golds or ["1"] * len(texts), strict=True)), found.__setitem__)
    return [found[index] for index in range(len(texts))]


def by_text(prompt, before):
    """The mark is the length of the answer."""
    answer = prompt.split("Answer to be marked:\n")[1].split("\n\n")[0]
    return f"Mark: 3, at first. I change my mind.\n**Mark:** {len(answer)}"


def test_marks_become_scores_and_the_judge_sees_question_answer_and_gold(tmp_path):
    with judging(by_text) as server:
        judge = judge_of(server, tmp_path, correct_from=0.5)
        pair = CompletionView("{gold} and more", prompt="3+5="), "8"
        found = []
        judge.score([pair], lambda index, verdict: found.append(verdict))
        (prompt,) = server.asked
        # what a completion says is put in as it is: no place of the template is filled in it
        assert "Question:\n3+5=\n" in prompt and "Reference answer:\n8\n" in prompt and "\n{gold} and more\n" in prompt
        assert found[0].failure is Outcome.ERROR and "no mark from 0 to 10" in found[0].problem  # 15 of 10
        scores = [each.score for each in verdicts(judge, ["four", "eight ch", "ten chars."])]
    assert scores == [Score(0.4, Outcome.WRONG), Score(0.8, Outcome.CORRECT), Score(1.0, Outcome.CORRECT)]


def test_a_template_and_a_pattern_of_ones_own(tmp_path):
    (tmp_path / "template.txt").write_text("Polite? {answer}\n", encoding="utf-8")
    own = {"template": str(tmp_path / "template.txt"), "pattern": "(-?[0-9]) points", "lowest": -1.0, "highest": 1.0}
    with judging(lambda prompt, before: f"{1 if 'please' in prompt else -1} points") as server:
        found = verdicts(judge_of(server, tmp_path / "kept", **own), ["please", "now"])
        assert server.asked[0] in ("Polite? please\n", "Polite? now\n")
    assert [each.score.value for each in found] == [1.0, 0.0]


def test_nothing_is_asked_twice_and_what_failed_is_asked_again(tmp_path):
    def answer(prompt, before):
        return "no idea" if "mute" in prompt and not before else by_text(prompt, before)

    with judging(answer) as server:
        first = verdicts(judge_of(server, tmp_path), ["abc", "abc", "mute"])
        assert len(server.asked) == 2 and first[0] == first[1] and first[2].failure is Outcome.ERROR
        again = verdicts(judge_of(server, tmp_path), ["abc", "mute"])
        assert len(server.asked) == 3 and again[0] == first[0] and again[1].score.value == 0.4
        verdicts(judge_of(server, tmp_path, temperature=0.5), ["abc"])  # asked otherwise
        assert len(server.asked) == 4
    stopped = verdicts(judge_of(server, tmp_path, retries=0), ["abc", "mute", "new"])  # the server is gone
    assert stopped[:2] == again and stopped[2].failure is Outcome.ERROR and "ConnectionRefused" in stopped[2].problem


def test_a_busy_or_broken_server_is_asked_again_and_a_refusal_is_not(tmp_path):
    replies = {
        "busy": (429, {"Retry-After": "0.02"}, b"slow down"),
        "broken": (503, {}, b"overloaded"),
        "no json": (200, {}, b"<html>"),
        "no choice": (200, {}, b'{"choices": []}'),
        "cut off": (200, {"Content-Length": "100"}, b"{"),
        "refused": (400, {}, b"no such model"),
    }

    def answer(prompt, before):
        kind = next((name for name in replies if name in prompt), None)
        return replies[kind] if kind and (before < 2 or "always" in prompt) else "Mark: 10"

    with judging(answer) as server:
        judge = judge_of(server, tmp_path, retries=2)
        names = [name for name in replies if name != "refused"]
        assert [each.score for each in verdicts(judge, names)] == [Score(1.0, Outcome.CORRECT)] * len(names)
        assert len(server.asked) == 3 * len(names)
        failed = verdicts(judge, [f"always {name}" for name in replies])
        assert len(server.asked) == 6 * len(names) + 1
    assert [each.failure for each in failed] == [Outcome.ERROR] * len(replies)
    said = ["status 429: slow down", "status 503: overloaded", "no chat completion: <html>", "no chat completion"]
    for verdict, words in zip(failed, [*said, "", "status 400: no such model"], strict=True):
        assert words in verdict.problem and verdict.problem.startswith("judge: ")


def test_a_silent_server_is_a_timeout(tmp_path):
    def drip(prompt, before):
        return 1.0 if "silent" in prompt else "Mark: 10"

    with judging(drip) as server:
        judge, begun = judge_of(server, tmp_path, timeout_s=0.2, retries=1), time.monotonic()
        silent, well = verdicts(judge, ["silent", "well"])
        assert time.monotonic() - begun < 0.9 and len(server.asked) == 3
    assert silent.failure is Outcome.TIMEOUT and silent.problem == "timeout: no reply within 0.2 s"
    assert well.score.value == 1.0


def test_as_many_requests_at_a_time_as_are_allowed(tmp_path):
    def slow(prompt, before):
        time.sleep(0.05)
        return "Mark: 10"

    with judging(slow) as server:
        verdicts(judge_of(server, tmp_path, concurrency=3), [str(number) for number in range(9)])
        assert server.most_at_once == 3


def test_the_key_is_sent_and_never_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_THE_TEST", KEY)
    with judging(lambda prompt, before: (401, {}, f"Incorrect API key provided: {KEY}".encode())) as server:
        judge = judge_of(server, tmp_path, key_variable="KEY_OF_THE_TEST")
        (found,) = verdicts(judge, ["a"])
        assert server.keys == [f"Bearer {KEY}"]
    assert found.problem == "judge: status 401: Incorrect API key provided: (key)"
    assert KEY not in repr(judge) and KEY not in repr(judge.server)
    with judging(by_text) as server:
        verdicts(judge_of(server, tmp_path, key_variable="KEY_OF_THE_TEST"), ["a"])
    assert [KEY in path.read_text() for path in tmp_path.rglob("*.json")] == [False]


def test_in_a_reward_a_failing_judge_is_a_failure(tmp_path, capsys):
    def answer(prompt, before):
        return "hm" if "bad" in prompt else "Mark: 5"

    with judging(answer) as server:
        judge = judge_of(server, tmp_path)
        names, weights = ["format_reward", "judge_reward"], [0.5, 2.0]
        trial = (CompletionView("<answer>1</answer>"), "1")
        reward = RewardFunction(names, weights, 10, 1, trial=trial, elsewhere={"judge_reward": judge})
        assert len(server.asked) == 1  # the trial
        completions = views(["<think>1</think><answer>1</answer>", "bad"])
        scores = reward.score(completions, ["1", "1"])
        assert reward.rewards(scores).tolist() == [1.5, 0.0]
        assert reward.outcomes(scores) == [Outcome.WRONG, Outcome.ERROR]
        assert "verifier judge_reward failed on 1 of 2 completions: judge: no mark" in capsys.readouterr().err
        with pytest.raises(UserError, match=f"judge_reward failed on {GIVE_UP_AFTER} completions in a row"):
            reward.score(views([f"bad {n}" for n in range(GIVE_UP_AFTER)]), [str(n) for n in range(GIVE_UP_AFTER)])
        reward.close()
        with pytest.raises(UserError, match="judge_reward fails on a made-up completion: judge: no mark"):
            RewardFunction(
                ["judge_reward"], [1.0], 10, 1, trial=(CompletionView("bad"), "1"), elsewhere={"judge_reward": judge}
            )


def test_mistakes_in_words(tmp_path, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    (tmp_path / "empty.txt").write_text("Mark it.", encoding="utf-8")
    good = JudgeConfig(address="http://localhost:8000/v1", model="m")
    assert judge_problems(good) == []
    for change, words in (
        ({"address": "localhost:8000"}, "address='localhost:8000': give the server"),
        ({"model": ""}, "model='': give the name"),
        ({"pattern": "mark: [0-9]"}, "a first group is needed"),
        ({"pattern": "("}, "no regular expression"),
        ({"lowest": 10.0}, "lowest=10: must be below highest=10"),
        ({"key_variable": "NOWHERE"}, "key_variable='NOWHERE': no such environment variable"),
        ({"template": str(tmp_path / "none.txt")}, "No such file"),
        ({"template": str(tmp_path / "empty.txt")}, "it has no {answer}"),
    ):
        (problem,) = judge_problems(replace(good, **change))
        assert problem.startswith("reward_config.judge.") and words in problem


def test_a_reply_without_end():
    words = "a reply of more than 1 MiB"
    with (
        judging(lambda prompt, before: (200, {}, b" " * (2 << 20))) as server,
        pytest.raises(Unanswered, match=words),
    ):
        JudgeServer(server.address, 10.0, 0).reply_to({"model": "m", "messages": [{"content": "a"}]})
