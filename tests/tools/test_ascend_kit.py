"""The acceptance kit, on CPU and under the dry run: it runs to its end, and says what failed."""

import importlib.util
import json
import math
import platform
import shutil

import pytest
from helpers import ROOT, run

KIT = ROOT / "tools/ascend_kit.sh"


def kit(folder, *arguments, **variables):
    return run(["bash", KIT, "--output", folder, *arguments], timeout=300, **variables)


# what the emulated types change, and what they must not
ROUNDED, EXACT = {"fused_kernels", "model_bfloat16"}, {"store", "sampler", "optimizer"}


@pytest.mark.parametrize(
    "checks",
    [{"sampler", "model_bfloat16"}, pytest.param(ROUNDED | EXACT, marks=pytest.mark.full)],
    ids=["one of each", "all"],
)
def test_on_cpu_it_finds_roundings_and_nothing_else(tmp_path, checks):
    result = kit(tmp_path, "--device", "CPU", "--only", ",".join(sorted(checks)))
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "ascend_report.json").read_text())
    assert [check["status"] for check in report["checks"]] == ["ok"] * len(checks)
    apart = {check["name"]: check["figures"]["largest difference"] for check in report["checks"]}
    assert apart.keys() == checks
    assert all(apart[name] == 0 for name in checks & EXACT)
    assert all(apart[name] > 1e-3 for name in checks & ROUNDED)
    text = (tmp_path / "ascend_report.md").read_text()
    assert "| sampler | ok |" in text and str(ROOT) not in text and str(tmp_path) not in text


def test_a_failure_is_reported_and_the_next_check_runs(tmp_path):
    """The device is not there."""
    result = kit(tmp_path, "--only", "store,sampler", ASCEND_HOME_PATH="/nowhere/to/be/found")
    assert result.returncode == 1 and "failed: store, sampler" in result.stdout, result.stdout + result.stderr
    text = (tmp_path / "ascend_report.md").read_text()
    assert text.count("| FAILED |") == 2 and "/nowhere" not in text and "Traceback" not in result.stderr


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc and binutils for CANN's stand-ins")
def test_under_the_dry_run_nothing_is_computed(tmp_path):
    result = kit(tmp_path, "--device", "dry", "--only", "fused_kernels,layouts")
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "ascend_report.json").read_text())
    assert [check["status"] for check in report["checks"]] == ["not computed", "needs devices"]


def test_what_a_check_did_not_expect_is_its_failure_and_nothing_is_lost(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("ascend_kit", ROOT / "tools/ascend_kit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", ["ascend_kit", "--device", "CPU", "--output", str(tmp_path)])
    made = module.Kit(module.parse_arguments(), tmp_path)

    def fails():
        raise KeyError(f"/scratch of {platform.node()}.corp.local at 10.0.3.17:8118, '/home/anna b/model'")

    made.note("first", "a comparison", "ok", 1.0, figures={"largest difference": math.inf})
    made.attempt("second", fails)
    text = (tmp_path / "ascend_report.json").read_text()
    first, second = json.loads(text)["checks"]
    assert first["figures"] == {"largest difference": "inf"} and second["status"] == "FAILED"
    for name in ("scratch", "anna", "corp", "10.0", platform.node()):
        assert name not in second["error"], second["error"]


def test_it_ends_in_what_was_expected_and_what_was_measured(tmp_path):
    """Of a CPU, whose figures are not those of a device, but are there."""
    result = kit(tmp_path, "--device", "CPU", "--only", "speed")
    assert result.returncode == 0, result.stdout + result.stderr
    (check,) = json.loads((tmp_path / "ascend_report.json").read_text())["checks"]
    assert all(value > 0 for value in check["figures"].values()) and len(check["figures"]) == 10
    *_, table = (tmp_path / "ascend_report.md").read_text().partition("## Expected of 910B, and measured")
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    found = {name.strip(): (float(wanted), float(measured)) for _, name, wanted, measured, _ in rows}
    assert found["us an aclnn kernel"][0] == 16 and len(found) == 7
    for name, (_, measured) in found.items():
        assert measured == pytest.approx(check["figures"][name], rel=0.01)


def test_an_unknown_check_is_named():
    result = kit("unused", "--only", "storage")
    assert result.returncode == 2 and "--only storage: no such check; there are plain_kernels" in result.stderr
