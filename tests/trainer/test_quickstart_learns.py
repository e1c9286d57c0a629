"""The README's promise: from 10-40 % to at least 80 % within 10 minutes on 2 cores, for seeds 0, 1 and 2."""

import json
import time

import pytest
from helpers import ROOT, run


@pytest.mark.full
@pytest.mark.parametrize(
    ("seed", "dtype"), [(0, "float32"), (1, "float32"), (2, "float32"), (0, "bfloat16"), (0, "float16")]
)
def test_quickstart(seed, dtype, tmp_path):
    start = time.monotonic()
    result = run(
        [
            *("bash", ROOT / "examples/quickstart/run_grpo.sh", "--output", tmp_path / "run"),
            *(f"--rl_config.seed={seed}", f"--actor_config.compute_dtype={dtype}"),
        ],
        timeout=1500,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    accuracy = json.loads((tmp_path / "run/summary.json").read_text())["accuracy"]
    assert 0.1 <= accuracy["before"]["accuracy"] <= 0.4
    assert accuracy["after"]["accuracy"] >= 0.8
    print(
        f"seed {seed}, {dtype}: {accuracy['before']['accuracy']:.1%} -> {accuracy['after']['accuracy']:.1%} in "
        f"{time.monotonic() - start:.0f} s"
    )
