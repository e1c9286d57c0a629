"""A measured device: how runs change it, how its table is read, how alike two orders are."""

import json
from dataclasses import asdict, replace

import pytest
import yaml
from helpers import ROOT, run_python

from mindrlhf_lite.acceptance.calibration import phases_of_run, with_factors
from mindrlhf_lite.config.load import build_config, read_yaml
from mindrlhf_lite.config.model_file import shape_of_actor
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.estimate.devices import CPU, of_rank, read_device, write_device
from mindrlhf_lite.estimate.ranks import rank_correlation
from mindrlhf_lite.estimate.step import work_of_step

DEVICE = replace(CPU, flops=1e10)


@pytest.fixture
def finished(tmp_path):
    """A function of seconds by phase of every step: the folder of a run that took them."""

    def make(name, steps):
        values = read_yaml(ROOT / "examples/quickstart/grpo_config.yaml")
        config = build_config({**values, "actor_config.load": str(ROOT / "examples/quickstart/model")})
        folder = tmp_path / name
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps({"config": asdict(config), "world_size": 2}))
        rows = [{f"time_s/{phase}": each for phase, each in seconds.items()} for seconds in steps]
        rows = [{"step": step, **row, "time_s/step": 1.0} for step, row in enumerate(rows, start=1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder, config

    return make


def test_factors_are_measured_over_estimated_seconds(finished):
    folder, config = finished("run", [{"update": 50.0}, {"update": 50.0}, {"update": 3.0}, {"update": 5.0}])
    estimated = work_of_step(config, shape_of_actor(config), 2)["update"].seconds(DEVICE)
    assert phases_of_run(folder, DEVICE) == {"update": (4.0, pytest.approx(estimated))}  # but for steps that compile
    measured = with_factors(DEVICE, [folder])
    assert measured.factors == {"update": pytest.approx(4.0 / estimated, rel=5e-3)}
    found = phases_of_run(folder, measured)["update"]
    assert found[1] == pytest.approx(4.0, rel=5e-3)
    assert with_factors(measured, [folder]).factors == measured.factors  # not on top of the last ones
    other, _ = finished("other", [{"update": 9.0}] * 3)
    both = with_factors(DEVICE, [folder, other]).factors["update"]
    assert both == pytest.approx(6.5 / estimated, rel=5e-3)


def test_runs_that_tell_nothing_are_refused(finished, tmp_path):
    folder, _ = finished("short", [{"update": 1.0}] * 2)
    for path, problem in ((folder, "three steps"), (tmp_path / "none", "not the folder of a finished run")):
        with pytest.raises(UserError, match=problem):
            with_factors(DEVICE, [path])
    with pytest.raises(UserError, match="is CPU, not that of npu"):
        phases_of_run(finished("run", [{"update": 1.0}] * 3)[0], replace(DEVICE, name="npu", overlaps=True))


def test_tables_are_read_as_written_and_others_refused(tmp_path):
    table = tmp_path / "device.yaml"
    write_device(str(table), replace(DEVICE, factors={"update": 2.5}))
    assert read_device(str(table)) == replace(DEVICE, factors={"update": 2.5})
    whole = asdict(DEVICE)
    for text, problem in (
        ("[1]", "not a table"),
        ("{name: x, flops: 1.0}", "not a table"),
        ("flops: -1.0", "flops=-1.0"),
        ("flops: .nan", "flops=nan"),
        ("flops: 0", "flops=0"),
        ("flops: {a: 1.0}", "flops="),
        ("sped: 1", "sped: unknown"),
        ("overlaps: 'no'", "overlaps='no'"),
        ("name: null", "name=None"),
        ("factors: {update: fast}", "factors="),
        ("factors: 3.0", "factors=3.0"),
    ):
        given = yaml.safe_load(text)
        table.write_text(text if not isinstance(given, dict) or len(given) != 1 else yaml.safe_dump({**whole, **given}))
        with pytest.raises(UserError, match=problem):
            read_device(str(table))
    with pytest.raises(UserError, match="No such file"):
        read_device(str(tmp_path / "none.yaml"))


def test_ranks_share_a_hosts_processors():
    alone = replace(CPU, flops=1e9)
    assert of_rank(alone, 1, 2, 2).flops == 2e9 and of_rank(alone, 2, 1, 2).flops == 1e9
    assert of_rank(alone, 4, 1, 2).flops == 0.5e9  # two ranks a processor


def test_rank_correlation():
    """By hand: 1 - 6 * sum of squared differences / (n (n^2 - 1))."""
    assert rank_correlation([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(1 - 6 * 2 / 60)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 2], [5, 6, 7]) == pytest.approx(0.75**0.5)


def test_the_tool_measures_one_rank(tmp_path):
    done = run_python(ROOT / "tools/calibrate.py", "--output", tmp_path / "cpu.yaml", timeout=300)
    assert done.returncode == 0, done.stderr
    device = read_device(tmp_path / "cpu.yaml")
    assert device.flops > 1e9 and 1e-6 < device.call_s < 0.1 and not device.overlaps
    again = run_python(ROOT / "tools/calibrate.py", "--output", tmp_path / "cpu.yaml")
    assert again.returncode == 2 and "--overwrite" in again.stderr
