"""A run of two ranks that is killed -9 anywhere goes on as if nothing had been, bit for bit.

By default tests/distributed/test_ends_of_runs.py kills one once, and test_runs.py resumes one rank bit for bit.
"""

import pytest
from reliability.kill_points import run

pytestmark = pytest.mark.full


def test_a_kill(tmp_path):
    assert run(1, 5, tmp_path) == []


def test_two_hundred_kills(tmp_path):
    assert run(200, 0, tmp_path) == []
