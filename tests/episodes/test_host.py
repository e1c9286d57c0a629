"""Processes of environments: they answer, fail in every way, are ended, and end with the run."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import clean_environment

from mindrlhf_lite.episodes.environment import Task
from mindrlhf_lite.episodes.failures import FailureRecord
from mindrlhf_lite.episodes.host import EnvironmentHost
from mindrlhf_lite.episodes.registry import EnvironmentSpec
from mindrlhf_lite.episodes.tools import schema_of
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.job.processes import Process

ACTING = str(Path(__file__).with_name("acting.py"))


@pytest.fixture
def started():
    hosts = []

    def start(name, timeout_s=20.0, **arguments):
        spec = EnvironmentSpec(f"{ACTING}:{name}", arguments=arguments, memory_bytes=1 << 29)
        hosts.append(EnvironmentHost(spec, timeout_s))
        return hosts[-1]

    yield start
    for host in hosts:
        host.close()


def until(host, count):
    """So many answers, by number."""
    found = {}
    while sum(map(len, found.values())) < count:
        for number, answer in host.take(waits=True):
            found.setdefault(number, []).append(answer)
    return found


def test_environments_answer_each_for_itself(started):
    host = started("Echo")
    for number in range(40):
        host.begin(number, Task(0, "go", str(number)), 100 + number)
        host.step(number, "x" * number, "stop")
    answers = until(host, 80)
    assert [answers[number][0].observation for number in range(40)] == [None] * 40
    for number in range(40):
        step = answers[number][1]
        assert step.observation == f"1 {number} {number} {(100 + number) % 97} " and step.reward == number % 2
        assert (step.done, step.info, step.problem) == (False, {"solved": True}, "")


def test_slow_ones_do_not_hold_up_others(started):
    """Ten environments of 0, 0.4 or 0.8 s: at the same time, each in its own process."""
    host = started("Echo", delay=0.4)
    for number in range(30):
        host.begin(number, Task(0, "go", "1"), number)
    until(host, 30)
    before = time.monotonic()
    for number in range(30):
        host.step(number, "text", "stop")
    until(host, 30)
    assert 0.7 < time.monotonic() - before < 4.0  # one after the other they would take 12 s


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("raise", "RuntimeError: no luck"),
        ("exit", "SystemExit: 3"),
        ("die", "exit: its process ended"),
        ("memory", "MemoryError"),
        ("nothing", "ValueError: step() returned no messages, and the episode is not done"),
        ("dictionary", "TypeError: step() returned {'messages': 'text'}, a Step is needed"),
        ("messages", "TypeError: {'role': 'user'} is no message"),
        ("reward", "ValueError: the reward nan"),
        ("info", "PosixPath is no JSON value"),
    ],
)
def test_what_goes_wrong_is_named_and_hits_nobody_else(started, how, problem):
    host = started("Broken")
    for number in range(2):
        host.begin(number, Task(0, "go", "1"), 0)
    until(host, 2)
    host.step(0, how, "stop")
    ((failed,),) = until(host, 1).values()

    assert problem in failed.problem and "\x1b" not in failed.problem
    host.step(0, "fine", "stop")  # it is over, and asked no more
    host.step(1, "fine", "stop")
    assert {number: each[0].observation for number, each in until(host, 1).items()} == {1: "fine "}


def test_one_that_dies_while_nobody_asks_it_has_failed(started):
    host = started("Broken")
    host.begin(0, Task(0, "go", "1"), 0)
    until(host, 1)
    host.step(0, "die later", "stop")
    assert [each.problem for each in until(host, 1)[0]] == [""]
    time.sleep(0.5)
    assert [(number, each.problem) for number, each in host.take(waits=False)] == [(0, "exit: its process ended")]


def test_an_environment_that_hangs_is_ended(started, capfd):
    host = started("Broken", timeout_s=1.5)
    host.begin(7, Task(0, "go", "1"), 0)
    until(host, 1)
    host.step(7, "hang", "stop")
    assert until(host, 1)[7][0].problem == "timeout: no answer within 1.5 s"
    wait_for(lambda: len(living_below(host.pid)) <= 2)  # the nursery alone
    host.begin(8, Task(0, "go", "1"), 0)
    host.step(8, "fine", "stop")
    assert until(host, 2)[8][1].observation == "fine "
    heard: list[str] = []  # in whatever pieces it comes

    def is_heard():
        heard.append(capfd.readouterr().err)
        return "printed by an environment" in "".join(heard)

    wait_for(is_heard)


def test_a_child_that_an_environment_forks_is_not_heard(started):
    host = started("Broken")
    host.begin(0, Task(0, "go", "1"), 0)
    host.step(0, "fork", "stop")
    assert [answer.observation for answer in until(host, 2)[0]] == [None, "fine "]


def test_an_episode_that_is_over_closes_its_environment(started, tmp_path):
    host = started("Echo", folder=str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1  # of the trial
    for number in range(3):
        host.begin(number, Task(0, "go", "1"), 0)
    until(host, 3)
    for number in range(3):
        host.end(number)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 4)
    assert host.take(waits=False) == []


def test_what_is_started_ends_with_its_episode(started):
    host = started("Broken")
    host.begin(0, Task(0, "go", "1"), 0)
    host.step(0, "start", "stop")
    until(host, 2)
    assert any(process.name == "sleep" for process in living_below(host.pid))
    host.end(0)
    wait_for(lambda: host.take(False) == [] and not any(each.name == "sleep" for each in living_below(host.pid)))


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("Missing", {}, "has no 'Missing'"),
        ("no_environment", {}, "no class that inherits from mindrlhf_lite.episodes.Environment"),
        ("Echo", {"speed": 3}, "got an unexpected keyword argument 'speed'; it takes delay, turns, folder"),
    ],
)
def test_mistakes_are_told_at_the_start(started, name, arguments, problem):
    with pytest.raises(UserError, match=problem):
        started(name, **arguments)


def test_tools():
    host = EnvironmentHost(EnvironmentSpec("", ["calculator"], [schema_of("calculator")]), 20.0)
    host.begin(0, Task(0, "2*3?", "6"), 0)
    host.step(0, '<tool_call>{"name": "calculator", "arguments": {"expression": "2*3"}}</tool_call>', "stop")
    host.step(0, "<tool_call>2*3</tool_call>", "stop")
    opening, right, wrong = until(host, 3)[0]
    host.close()
    assert opening.observation == [{"role": "user", "content": "2*3?"}]
    assert right.observation == [{"role": "tool", "content": "6"}] and (right.num_calls, right.num_malformed) == (1, 0)
    assert wrong.num_malformed == 1 and wrong.observation[0]["content"].startswith("error: the call is not JSON")


RUN = """
import sys, time
from mindrlhf_lite.episodes.environment import Task
from mindrlhf_lite.episodes.host import EnvironmentHost
from mindrlhf_lite.episodes.registry import EnvironmentSpec
host = EnvironmentHost(EnvironmentSpec(sys.argv[1] + ":Broken"), 60.0)
for number, how in enumerate(["fine", "hang", "start"]):
    host.begin(number, Task(0, "go", "1"), 0)
    host.step(number, how, "stop")
for _ in range(5):
    host.take(True)
print(host.pid, flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_they_end_with_the_run(number):
    run = subprocess.Popen([sys.executable, "-c", RUN, ACTING], stdout=subprocess.PIPE, env=clean_environment())
    assert run.stdout is not None
    pids = [each.pid for each in living_below(int(run.stdout.readline()))]
    assert len(pids) >= 5  # keeper, nursery, three environments, what one has started
    run.send_signal(number)
    run.wait()
    wait_for(lambda: not any((found := Process.find(pid)) and found.is_alive() for pid in pids))


def living_below(pid):
    own = Process.find(pid)
    if own is None or not own.is_alive():
        return []
    return [own, *(each for child in own.children() for each in living_below(child.pid))]


def wait_for(is_so, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_many_failures_end_the_run(capsys):
    record = FailureRecord("mine")
    for number in range(100):
        record.add("" if number % 10 else "OSError: down", number)
    record.report()
    assert "environment mine failed on 10 episode(s): OSError: down (row 0)" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"mine failed on 20 episodes in a row, .*OSError: down \(row 3\): mend it"):
        for _ in range(20):
            record.add("OSError: down", 3)
    with pytest.raises(UserError, match=r"failed on an episode, the last time with timeout: 3 s .*step_timeout_s"):
        FailureRecord("mine", ends_at_once=True).add("timeout: 3 s", 1)


def test_half_of_two_hundred_end_the_run():
    record = FailureRecord("mine")
    with pytest.raises(UserError, match=r"133 of the last 200"):
        for number in range(1000):
            record.add("OSError: down" if number % 3 else "", number)


def test_time_in_which_nobody_listens_does_not_count(started):
    """A run that compiles for longer than the limit: whoever answers late all the same is heard."""
    host = started("Echo", timeout_s=1.5, delay=0.9)
    host.begin(0, Task(0, "go", "1"), 2)  # it will take 1.8 s
    until(host, 1)
    host.step(0, "text", "stop")
    time.sleep(2.5)
    ((answer,),) = until(host, 1).values()
    assert answer.problem == "" and answer.observation.startswith("1 4")
    host.step(0, "text", "stop")
    ((answer,),) = until(host, 1).values()  # listened to, 1.8 s are too long
    assert answer.problem.startswith("timeout")


def test_time_before_anything_was_asked_does_not_count_either(started):
    host = started("Broken", timeout_s=1.5)
    time.sleep(2.5)
    host.begin(0, Task(0, "go", "1"), 0)
    until(host, 1)
    time.sleep(2.5)
    before = time.monotonic()
    host.step(0, "hang", "stop")
    ((answer,),) = until(host, 1).values()
    assert answer.problem.startswith("timeout") and time.monotonic() - before < 3
