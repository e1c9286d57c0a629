"""Every objective gives one result whatever the micro-batches, the padding and the layout."""

import json
from pathlib import Path

import pytest
from distributed.jobs import run_ranks

from mindrlhf_lite.algorithms.losses import LOSSES

WORKER = Path(__file__).with_name("objectives_worker.py")


# a loss looks at tokens or at whole completions; which rank has a completion changes sums only
ON_DATA_RANKS = ("tempered", "gspo")
EVERY = ("tempered", "taught", *LOSSES)


def measured(folder, on_data_ranks):
    names = ",".join(on_data_ranks)
    code, text, logs = run_ranks(2, folder / "log", WORKER, folder / "found.json", names, timeout=400)
    assert code == 0, text[-4000:] + logs[-4000:]
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("objectives"), ON_DATA_RANKS)


def check(of_layouts, layouts):
    assert of_layouts.keys() == layouts
    whole = of_layouts.pop("whole")
    assert whole.pop("micro_batches") == 1 and whole["grad_norm"] > 1e-3
    assert of_layouts["tensor"]["micro_batches"] > 1
    for layout, values in of_layouts.items():
        del values["micro_batches"]
        # the KL of a token is what is left of two logprobs: its sum is compared more loosely
        near = {key: pytest.approx(whole[key], rel=1e-5, abs=1e-4 if key == "policy/kl" else 1e-5) for key in whole}
        assert values == near, layout


@pytest.mark.parametrize("name", EVERY)
def test_objective(found, name):
    check(found[name], {"whole", "tensor", *(["data"] if name in ON_DATA_RANKS else [])})


@pytest.mark.full
def test_every_objective_on_data_ranks(tmp_path):
    for of_layouts in measured(tmp_path, EVERY).values():
        check(of_layouts, {"whole", "tensor", "data"})
