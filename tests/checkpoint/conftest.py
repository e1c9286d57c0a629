"""Fixtures of several files."""

import pytest
from checkpoint.format_cases import SHAPE
from helpers import random_weights

from mindrlhf_lite.models.hf_weights import save_hf_model


@pytest.fixture
def hf(tmp_path):
    save_hf_model(tmp_path / "hf", SHAPE, random_weights(SHAPE), [5, 6], 0)
    return tmp_path / "hf"
