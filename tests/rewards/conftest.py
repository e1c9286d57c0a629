"""Fixtures of several files."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def beside_user_verifiers(monkeypatch):
    """Workers import user modules from the working folder."""
    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
