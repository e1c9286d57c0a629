"""Dumps and their comparison: statistics by hand, shares that add up, where two runs part."""

import math

import numpy as np
import pytest
from helpers import run_python

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.observe.compare import compare, entries_of, read_step
from mindrlhf_lite.observe.dump import ACTIVATION, WEIGHT, Dumps, statistics
from mindrlhf_lite.parallel.dims import Coordinates, ParallelDims
from mindrlhf_lite.parallel.layout import Strategy, buffers_at, fill_buffers
from mindrlhf_lite.parallel.mesh import Mesh
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.types import TrainSequence


def test_statistics_by_hand():
    found = statistics(np.array([[1.0, -2.0], [3.0, 0.0]], np.float32))
    assert {key: found[key] for key in ("count", "sum", "square", "min", "max")} == {
        "count": 4,
        "sum": 2.0,
        "square": 14.0,
        "min": -2.0,
        "max": 3.0,
    }
    assert found["crc32"] != statistics(np.array([[1.0, -2.0], [3.0, 1e-20]], np.float32))["crc32"]


def lines_of(values, cuts, stage=WEIGHT, name="w"):
    """A tensor as shares [start, stop) of its rows."""
    return [
        {"stage": stage, "name": name, "part": "", **statistics(values[a:b]), "box": [[a, b], [0, 3]]} for a, b in cuts
    ]


def test_shares_add_up_however_a_tensor_is_cut():
    values = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    whole = entries_of(lines_of(values, [(0, 8)]))
    parts = entries_of(lines_of(values, [(0, 3), (3, 8), (0, 3)]))  # a copy of the first
    (difference,) = compare(whole, parts, 1)
    assert 0 <= difference.value < 1e-14  # sums in another order: on some processors the same bits
    assert next(iter(compare(whole, entries_of(lines_of(values, [(0, 8)])), 1))).value == 0


@pytest.mark.parametrize("change", ["one number", "two swapped in sign", "a number more"])
def test_a_difference_is_seen(change):
    values = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    other = values.copy()
    if change == "one number":
        other[2, 1] += 0.5
    elif change == "two swapped in sign":
        other[2] = -other[2]
    else:
        other = np.concatenate([other, other[:1]])
    (difference,) = compare(entries_of(lines_of(values, [(0, 8)])), entries_of(lines_of(other, [(0, len(other))])), 1)
    assert difference.value > 1e-3 and (change != "a number more" or difference.value == math.inf)


def test_copies_that_differ_are_an_error():
    values = np.ones((8, 3), np.float32)
    with pytest.raises(UserError, match="ranks hold different copies of w"):
        entries_of([*lines_of(values, [(0, 8)]), *lines_of(2 * values, [(0, 8)])])


def test_not_finite_counts_as_parted():
    values = np.ones((8, 3), np.float32)
    broken = values.copy()
    broken[0, 0] = np.nan
    (difference,) = compare(entries_of(lines_of(values, [(0, 8)])), entries_of(lines_of(broken, [(0, 8)])), 1)
    assert not difference.value <= 1e9


def test_a_model_in_shards_is_the_same_tensors(tmp_path):
    """Weights of one rank, and of two tensor-parallel ranks with key heads of their own."""
    config = ModelConfig(30, 8, 16, 1, 4, 2)
    rng = np.random.default_rng(0)
    whole_buffers = buffers_at(config, Strategy(ParallelDims(1)), Coordinates(0, 0, 0))
    tensors = {buffer.name: rng.standard_normal(buffer.shape).astype(np.float32) for buffer in whole_buffers}

    def read(name, box):
        return tensors[name][tuple(slice(*bounds) for bounds in box)]

    for name, dims in (("one", ParallelDims(1)), ("two", ParallelDims(1, 2))):
        for rank in range(dims.size):
            settings = {"msprobe_config.msprobe": True, "msprobe_config.dump_path": str(tmp_path / name)}
            mesh = Mesh()
            mesh.rank = rank
            dumps = Dumps(build_config(settings), mesh)
            buffers = buffers_at(config, Strategy(dims), dims.coordinates(rank))
            with dumps.step(3):
                dumps.key_data([TrainSequence.of(np.arange(5, dtype=np.int32), 2, 1.0)], np.ones(1))
                dumps.weights(buffers, fill_buffers(buffers, read))
                dumps.activation("model.layers.0", {0: np.ones((3, 8))}, {0: 0})
    one, two = (entries_of(read_step(tmp_path / name, 3)) for name in ("one", "two"))
    assert set(one) == set(two) and {key[0] for key in one} == {"key data", WEIGHT, ACTIVATION}
    assert all(difference.value < 1e-12 for difference in compare(one, two, 3))
    found = run_python("tools/compare_dumps.py", tmp_path / "one", tmp_path / "two")
    assert found.returncode == 0 and "they are equal within 0.0001" in found.stdout, found.stdout + found.stderr
    path = tmp_path / "two/step_000003/rank_00001.jsonl"
    lines = path.read_text().splitlines()
    (place,) = (n for n, line in enumerate(lines) if "up_proj" in line)
    lines[place] = lines[place].replace('"sum": ', '"sum": 1')
    path.write_text("\n".join(lines) + "\n")
    found = run_python("tools/compare_dumps.py", tmp_path / "one", tmp_path / "two")
    assert found.returncode == 1 and "they part first at step 3, weight model.layers.0.mlp.up_proj" in found.stdout


def test_folders_without_a_dump_are_said(tmp_path):
    found = run_python("tools/compare_dumps.py", tmp_path, tmp_path)
    assert found.returncode == 2 and "msprobe_config.msprobe: true makes a run write them" in found.stderr
