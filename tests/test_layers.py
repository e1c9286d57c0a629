"""Folders import only what lies below them: no two import each other, in however many steps."""

import ast

from helpers import ROOT

PACKAGE = ROOT / "mindrlhf_lite"


def folder_of(module):
    """mindrlhf_lite.parallel.mesh is of the folder parallel; a module beside the folders is one by itself."""
    return module.split(".")[1]


def imports_of_folders():
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module == "mindrlhf_lite" or path.name == "__main__.py":  # programs use what they like
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mindrlhf_lite."):
                graph.setdefault(folder_of(module), set()).add(folder_of(node.module))
    return {folder: {other for other in others if other != folder} for folder, others in graph.items()}


def test_layers_are_one_way():
    graph, below = imports_of_folders(), {}

    def reach(folder, path):
        assert folder not in path, " -> ".join([*path[path.index(folder) :], folder])
        if folder not in below:
            below[folder] = set().union(
                *({other} | reach(other, [*path, folder]) for other in graph.get(folder, set()))
            )
        return below[folder]

    for folder in graph:
        reach(folder, [])
    assert "models" not in below["parallel"] and "trainer" not in below["rollout"]
