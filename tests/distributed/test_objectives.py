"""Every objective gives one result whatever the micro-batches, the padding and the layout."""

import json
from pathlib import Path

import pytest
from distributed.jobs import run_ranks

from mindrlhf_lite.algorithms.losses import LOSSES

WORKER = Path(__file__).with_name("objectives_worker.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objectives")
    code, text, logs = run_ranks(2, folder / "log", WORKER, folder / "found.json", timeout=400)
    assert code == 0, text[-4000:] + logs[-4000:]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("name", ["tempered", *LOSSES])
def test_objective(found, name):
    whole = found[name].pop("whole")
    assert whole.pop("micro_batches") == 1 and whole["grad_norm"] > 1e-3
    for layout, values in found[name].items():
        assert values.pop("micro_batches") > 1 or layout != "micro"
        # the KL of a token is what is left of two logprobs: its sum is compared more loosely
        near = {key: pytest.approx(whole[key], rel=1e-5, abs=1e-4 if key == "policy/kl" else 1e-5) for key in whole}
        assert values == near, layout
