"""What the acceptance kit reports: about the host, and what its checks found; no paths, no host names."""

from __future__ import annotations

import math
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from mindrlhf_lite.acceptance.decoding import expected_of_decoding
from mindrlhf_lite.acceptance.speed import expected
from mindrlhf_lite.estimate.devices import DEVICES
from mindrlhf_lite.files.text_file import read_text
from mindrlhf_lite.observe.host import git_commit, versions


def as_json(value: Any) -> Any:
    """JSON has no infinity, and no nan."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def without_names(text: str) -> str:
    """No paths, no host names."""
    text = re.sub(r"(['\"])/[^'\"\n]*\1", "PATH", text)
    text = re.sub(r"(?<![\w.])/[^\s'\",:;()]+", "PATH", text)
    text = re.sub(r"\b\d{1,3}(?:\.\d{1,3}){3}\b", "ADDRESS", text)
    return (re.sub(re.escape(platform.node()) + r"(?:\.[\w-]+)*", "HOST", text) if platform.node() else text)[:300]


def about(device: str) -> dict[str, Any]:
    """Versions, and variables that change what Ascend does."""
    found: dict[str, Any] = {"device": device, "machine": platform.machine(), "commit": git_commit(), **versions()}
    for package in ("vllm", "vllm-mindspore", "mindformers", "mindspore-gs"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    names = ("HCCL_BUFFSIZE", "HCCL_EXEC_TIMEOUT", "HCCL_DETERMINISTIC", "ASCEND_RT_VISIBLE_DEVICES", "MS_ALLOC_CONF")
    found.update({name: os.environ[name] for name in names if name in os.environ})
    home = Path(os.environ.get("ASCEND_HOME_PATH", ""))
    for file in (home / "version.cfg", home / "opp/version.info"):
        if os.environ.get("ASCEND_HOME_PATH") and file.is_file():
            found["CANN"] = " ".join(re.findall(r"[\d.]+[\w.]*", read_text(file))[:2])
    return found


def as_markdown(report: dict[str, Any]) -> str:
    lines = ["# mindrlhf_lite on Ascend", "", *(f"- {name}: {value}" for name, value in report["about"].items()), ""]
    lines += ["| check | | seconds | what it compares | figures |", "|---|---|---|---|---|"]
    for check in report["checks"]:
        figures = check.get("error") or "; ".join(f"{key}: {value}" for key, value in check.get("figures", {}).items())
        figures = figures.replace("|", "/").replace("\n", " ")
        lines.append(f"| {check['name']} | {check['status']} | {check['seconds']} | {check['says']} | {figures} |")
    return "\n".join([*lines, *expected_and_measured(report["checks"])]) + "\n"


def expected_and_measured(checks: list[dict[str, Any]]) -> list[str]:
    """A table of what `main.py --dry_run` estimates with, and of what this device did; empty where nothing of it was
    measured.
    """
    device = DEVICES["910B"]
    figures = {name: value for check in checks for name, value in check.get("figures", {}).items()}
    of_phases = {name: value for check in checks for name, value in check.get("expected", {}).items()}
    rows = [
        f"| {name} | {wanted:.3g} | {figures[name]:.3g} |"
        for name, wanted in {**expected(device), **expected_of_decoding(device), **of_phases}.items()
        if isinstance(figures.get(name), float)
    ]
    if not rows:
        return []
    return ["", f"## Expected of {device.name}, and measured", "", "| | expected | measured |", "|---|---|---|", *rows]
