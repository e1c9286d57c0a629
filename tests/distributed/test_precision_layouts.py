"""bfloat16 (emulated) and float16 under tensor, pipeline and sharded data parallelism: what one rank gives, but for
roundings.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from distributed.jobs import VERIFIERS, run_ranks
from distributed.test_layouts import SEQUENCE_SPLIT, folder, micro, settings
from helpers import run_python

from mindrlhf_lite.models.hf_weights import load_weights
from mindrlhf_lite.shapes.model_config import ModelConfig

__all__ = ["folder"]

WORKER = Path(__file__).with_name("precision_worker.py")
OFFLOAD = {
    "rl_config.swap": True,
    "actor_config.optimizer.opt_offload": True,
    "actor_config.optimizer.opt_offload_bucket_mb": 1,
}
# half a unit of the last place of 1.0
EPSILON = {"bfloat16": 2**-8, "float16": 2**-11}
LAYOUTS = [
    ("tp2", "float16", (1, 2, 1), {**SEQUENCE_SPLIT, **micro(1)}),
    ("pp2", "bfloat16", (1, 1, 2), micro(2)),
]
FULL_LAYOUTS = [
    ("dp2_zero", "float16", (2, 1, 1), {"actor_config.enable_parallel_optimizer": True, **OFFLOAD, **micro(1)}),
]


def of(folder, dtype, degrees, options):
    data, tensor, stages = degrees
    case = ("", degrees, degrees, (data * stages, tensor), {"actor_config.compute_dtype": dtype, **options})
    values = settings(folder, case)
    return {**values, "rl_config.batch_size": 16, "rl_config.output_dir": str(folder)}


def measured(folder, scratch, layouts):
    """By name: what one rank gives in every type, and what two give."""
    scratch.mkdir()
    one = {dtype: of(folder, dtype, (1, 1, 1), micro(1)) for dtype in ("float32", *EPSILON)}
    two = {name: of(folder, dtype, degrees, options) for name, dtype, degrees, options in layouts}
    for name, cases in (("one", one), ("two", two)):
        (scratch / f"{name}.json").write_text(json.dumps(cases))
    result = run_python(WORKER, scratch / "one.json", PYTHONPATH=VERIFIERS)
    assert result.returncode == 0, result.stderr[-4000:]
    code, text, logs = run_ranks(2, scratch / "log", WORKER, scratch / "two.json", timeout=300)
    assert code == 0, text[-4000:] + logs[-4000:]
    return {name: dict(np.load(scratch / f"{name}.npz")) for name in (*one, *two)}


def learnt(found, start, name, other):
    """How differently two runs have changed the weights: the norm of the difference over that of the change."""
    wrong = sum(np.square(found[name][key] - found[other][key]).sum() for key in start)
    return float(np.sqrt(wrong / sum(np.square(found[other][key] - start[key]).sum() for key in start)))


@pytest.fixture(scope="module")
def found(folder):
    return measured(folder, folder / "precision", LAYOUTS)


@pytest.mark.parametrize(("name", "dtype"), [layout[:2] for layout in LAYOUTS])
def test_layouts_give_what_one_rank_gives(folder, found, name, dtype):
    check(folder, found, name, dtype)


@pytest.mark.full
@pytest.mark.parametrize(("name", "dtype"), [layout[:2] for layout in FULL_LAYOUTS])
def test_more_layouts_give_what_one_rank_gives(folder, name, dtype):
    check(folder, measured(folder, folder / f"more_{name}", FULL_LAYOUTS), name, dtype)


def check(folder, found, name, dtype):
    start = load_weights(folder / "tied", ModelConfig.from_dir(folder / "tied"))
    logprobs = [found[each]["reference"] for each in (name, dtype, "float32")]
    apart, from_float32 = (np.abs(logprobs[1] - other).mean() for other in (logprobs[0], logprobs[2]))
    assert apart < 1.5 * from_float32 < 64 * EPSILON[dtype], (apart, from_float32)
    np.testing.assert_allclose(found[name]["numbers"], found[dtype]["numbers"], rtol=16 * EPSILON[dtype], atol=1e-3)
    # no farther than the type is from float32 anyway
    own, rounding = learnt(found, start, name, dtype), learnt(found, start, dtype, "float32")
    print(f"{name}: logprobs {apart:.5f}, {from_float32:.5f} from float32; changes {own:.4f}, {rounding:.4f}")
    assert own < 1.5 * rounding < 96 * EPSILON[dtype], (own, rounding)
