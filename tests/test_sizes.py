"""Every file and every function is short enough to be read at once, in package, tools, examples and tests alike."""

import ast

from helpers import ROOT

FILE_LINES, FUNCTION_LINES = 300, 50
FOLDERS = ("mindrlhf_lite", "tools", "examples", "tests")
# tables of labelled answers and the generators that fill them: looked up, not read through
DATA = {f"tests/rewards/{name}.py" for name in ("labelled_answers", "labelled_forms", "labelled_sets")}


def too_long(text):
    """What of a module is too long, in words."""
    found = [f"{text.count(chr(10))} lines"] if text.count("\n") > FILE_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES:
                found.append(f"{node.name} has {lines} lines")
    return found


def modules_that_are_too_long():
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    found = {path.relative_to(ROOT).as_posix(): too_long(path.read_text(encoding="utf-8")) for path in paths}
    return {name: problems for name, problems in found.items() if problems}


def test_files_and_functions_can_be_read_at_once():
    found = modules_that_are_too_long()
    problems = [f"{name}: {', '.join(found[name])}" for name in sorted(found.keys() - DATA)]
    assert not problems, "cut by trade:\n" + "\n".join(problems)


def test_nothing_is_exempt_that_need_not_be():
    assert sorted(DATA - modules_that_are_too_long().keys()) == []
    assert all(name.startswith("tests/") for name in DATA)


def test_the_limits_are_seen():
    body = "def f():\n" + "    pass\n" * (FUNCTION_LINES - 1)
    assert too_long(body) == [] and too_long(body + "    pass\n") == ["f has 51 lines"]
    assert too_long("\n" * FILE_LINES) == [] and too_long("\n" * (FILE_LINES + 1)) == ["301 lines"]
