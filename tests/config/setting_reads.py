"""Which settings a source text reads, by section: `rl.beta`, where rl is a parameter that is annotated as a section, or
was assigned one, or a chain of attributes from a configuration.
"""

import ast
import dataclasses
import typing

from mindrlhf_lite.config.roles import ROLES
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.sections.generate import SamplingConfig

Read = tuple[type, str]  # a section's class, the name of a setting


def _sections(kind: type) -> dict[str, type]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if dataclasses.is_dataclass(hints[f.name])}


def _all_sections() -> dict[str, set[type]]:
    """{name of a field: classes of the sections that have it}."""
    found: dict[str, set[type]] = {}
    waiting = [Config]
    while waiting:
        for name, kind in _sections(waiting.pop()).items():
            found.setdefault(name, set()).add(kind)
            waiting.append(kind)
    return found


BY_FIELD = _all_sections()
CLASSES = {kind.__name__: kind for kinds in BY_FIELD.values() for kind in kinds} | {"Config": Config}
CLASSES |= {base.__name__: base for kind in CLASSES.values() for base in kind.__mro__ if dataclasses.is_dataclass(base)}
CLASSES["SamplingParams"] = SamplingConfig  # made of it field by field: config/sampling_params.py
OF_ROLES = {type(role.section_of(Config())) for role in ROLES}  # what a function of any role looks at


class _Search(ast.NodeVisitor):
    """`kinds` of every variable, attribute (".x") and function ("x()") of the file, by all that is assigned to it."""

    def __init__(self) -> None:
        self.kinds: dict[str, set[type]] = {}
        self.found: set[Read] = set()
        self._class: type | None = None

    def kinds_of(self, node: ast.AST) -> set[type]:
        if isinstance(node, ast.Name):
            own = {self._class} if node.id == "self" and self._class else set()
            return self.kinds.get(node.id, set()) | own
        if isinstance(node, ast.Attribute):
            holders = self.kinds_of(node.value)
            below = {_sections(kind)[node.attr] for kind in holders if node.attr in _sections(kind)}
            return below or BY_FIELD.get(node.attr, set()) | self.kinds.get(f".{node.attr}", set())
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("section_of", "getattr"):
                return OF_ROLES
            return self._named(node.func) | self.kinds.get(f"{name}()", set())
        return set()

    @staticmethod
    def _named(annotation: ast.AST) -> set[type]:
        words = [getattr(node, "id", getattr(node, "value", None)) for node in ast.walk(annotation)]
        return {CLASSES[word] for word in words if isinstance(word, str) and word in CLASSES}

    def _bind(self, target: ast.AST, value: ast.AST) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts):
                self._bind(one, other)
        elif isinstance(target, ast.Name | ast.Attribute):
            name = target.id if isinstance(target, ast.Name) else f".{target.attr}"
            self.kinds.setdefault(name, set()).update(self.kinds_of(value))

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._bind(target, node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._bind(node.target, node.value)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        for value in getattr(node.iter, "elts", []):
            self._bind(node.target, value)
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        if node.annotation:
            self.kinds.setdefault(node.arg, set()).update(self._named(node.annotation))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.kinds.setdefault(f".{node.target.id}", set()).update(self._named(node.annotation))
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.returns is not None:
            self.kinds.setdefault(f"{node.name}()", set()).update(self._named(node.returns))
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self._class = self._class, CLASSES.get(node.name)
        self.generic_visit(node)
        self._class = outer

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            self.found |= {(kind, node.attr) for kind in self.kinds_of(node.value)}
        self.generic_visit(node)


def settings_read_by(source: str) -> set[Read]:
    search, tree = _Search(), ast.parse(source)
    for _ in range(3):  # what is bound further down is known the next time
        search.visit(tree)
    return search.found


def place_of(key: str) -> Read:
    """(class of the section, name) of a setting."""
    *sections, name = key.split(".")
    kind: type = Config
    for section in sections:
        kind = _sections(kind)[section]
    return kind, name


def is_read(key: str, found: set[Read]) -> bool:
    """Also where it is read of a class that the section inherits it from, or that inherits from the section."""
    kind, name = place_of(key)
    return any(name == other and (issubclass(kind, owner) or issubclass(owner, kind)) for owner, other in found)
