"""Fixtures of several files."""

import pytest

from mindrlhf_lite.data.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(quickstart_model):
    return Tokenizer(str(quickstart_model))
