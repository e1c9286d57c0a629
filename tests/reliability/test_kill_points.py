"""A run that is killed -9 anywhere goes on as if nothing had been; a sample, and all points with --full."""

import pytest
from reliability.kill_points import run


def test_a_kill(tmp_path):
    assert run(1, 5, tmp_path) == []


@pytest.mark.full
def test_two_hundred_kills(tmp_path):
    assert run(200, 0, tmp_path) == []
