"""What the package and the tools import is what setup.py declares."""

import ast
import sys

import plain_build
from helpers import ROOT

# by their name in setup.py
PACKAGES = {"yaml": "pyyaml", "math_verify": "math-verify"}
OPTIONAL = {
    *(
        "torch",
        "vllm",
        "vllm_mindspore",
        "pyarrow",
        "mindformers",
        "mindspore_gs",
        "reasoning_gym",
        "rank_bm25",
        "gymnasium",
        *("wandb", "swanlab", "mlflow", "trackio"),  # in processes of their own
    ),  # extras, asked for by name where they are missing
    *("scipy", "psutil"),  # mindspore's
    "mindrlhf_lite",
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def test_every_import_is_declared():
    files = [
        *(ROOT / "mindrlhf_lite").rglob("*.py"),
        *(ROOT / "tools").glob("*.py"),
        *(ROOT / "examples").rglob("*.py"),
    ]
    own = {path.stem for path in files}  # scripts of one folder import one another
    names = {name for path in files for name in imported(path)} - set(sys.stdlib_module_names) - OPTIONAL - own
    required = (ROOT / "setup.py").read_text().partition("install_requires=[")[2].partition("]")[0]
    missing = [name for name in sorted(names) if f'"{PACKAGES.get(name, name)}' not in required]
    assert not missing and "jinja2" in names


def test_every_tool_has_a_main_path_in_the_plain_build(tmp_path):
    assert plain_build.commands(tmp_path, tmp_path).keys() == {path.stem for path in (ROOT / "tools").glob("*.py")}
