"""Damaged files of every kind end in words, or in what was written: a sample, and ten thousand with --full."""

import pytest
from reliability.fuzz import run

FINE = {"read", "refused", "older one used"}


@pytest.mark.parametrize("num_cases", [180, pytest.param(10_000, marks=pytest.mark.full)])
def test_damaged_files(num_cases):
    found = run(num_cases, seed=1)
    assert sum(count for outcomes in found.values() for count in outcomes.values()) == num_cases
    assert not {kind: outcomes for kind, outcomes in found.items() if set(outcomes) - FINE}
    assert all(outcomes["refused"] + outcomes["older one used"] > num_cases // 180 for outcomes in found.values())
