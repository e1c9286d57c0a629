"""Progress: a bar on a terminal, rare plain lines elsewhere."""

import io

import pytest

from mindrlhf_lite.commands import progress
from mindrlhf_lite.commands.progress import TERMINAL_VARIABLE, Progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.delenv(TERMINAL_VARIABLE, raising=False)
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_log_gets_a_line_every_half_minute_and_one_at_the_end(clock):
    log = io.StringIO()
    with Progress(1000, "row", "tokenizing", file=log) as bar:
        for _ in range(100):
            clock.now += 1
            bar.update(10)
    assert log.getvalue().splitlines() == [
        "tokenizing: 300 of 1000 rows, 00:30",
        "tokenizing: 600 of 1000 rows, 01:00",
        "tokenizing: 900 of 1000 rows, 01:30",
        "tokenizing: 1000 of 1000 rows, 01:40",
    ]


def test_what_is_being_done_and_figures_are_in_the_line(clock):
    log = io.StringIO()
    bar = Progress(9, "step", "grpo", initial=3, file=log, says_end=False, ascii=True)
    bar.note("reward 0.500")
    clock.now += 31
    bar.describe("training update   ")
    bar.update()
    bar.close()
    assert log.getvalue() == "training update: 3 of 9 steps, 00:31, reward 0.500\n"


def test_nothing_is_shown_that_should_not_be(clock):
    log = io.StringIO()
    with Progress(2, "row", "scoring", file=log, is_shown=False) as bar:
        clock.now += 99
        bar.update(2)
    with pytest.raises(KeyError), Progress(2, "row", "scoring", file=log) as bar:
        bar.update(1)
        raise KeyError
    assert log.getvalue() == ""


def test_a_program_that_passes_on_to_a_terminal_gets_the_bar(clock, monkeypatch):
    monkeypatch.setenv(TERMINAL_VARIABLE, "1")
    log = io.StringIO()
    with Progress(2, "row", "scoring", file=log, ascii=True) as bar:
        bar.update(2)
    assert "\r" in log.getvalue() and "100%" in log.getvalue()
