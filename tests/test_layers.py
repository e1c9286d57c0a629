"""Rooms import only what lies below them: no two import each other, in however many steps."""

import ast

from helpers import ROOT

PACKAGE = ROOT / "mindrlhf_lite"


def room_of(module):
    """mindrlhf_lite.parallel.mesh is of the room parallel; a module beside the rooms is one by itself."""
    return module.split(".")[1]


def imports_of_rooms():
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module == "mindrlhf_lite" or path.name == "__main__.py":  # programs use what they like
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mindrlhf_lite."):
                graph.setdefault(room_of(module), set()).add(room_of(node.module))
    return {room: {other for other in others if other != room} for room, others in graph.items()}


def test_layers_are_one_way():
    graph, below = imports_of_rooms(), {}

    def reach(room, path):
        assert room not in path, " -> ".join([*path[path.index(room) :], room])
        if room not in below:
            below[room] = set().union(*({other} | reach(other, [*path, room]) for other in graph.get(room, set())))
        return below[room]

    for room in graph:
        reach(room, [])
    assert "models" not in below["parallel"] and "trainer" not in below["rollout"]
