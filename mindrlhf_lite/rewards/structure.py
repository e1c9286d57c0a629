r"""Answers of several values: lists, sets, pairs, matrices, values with names, and what is in brackets within them.

    several  = part {joiner part}         joiner: , ; and or
    part     = [name =] value
    value    = ( several ) | [ several ] | \{ several \} | matrix | leaf

What has order and what has none: a list or a set has none, a pair (and what else is in round or square brackets) and a
matrix has. Values with names are matched by name. What a leaf is equal to, the caller says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from mindrlhf_lite.rewards.east_asian import JOINED, LETTERS

_LONGEST = 600
_MOST_PARTS = 64
_MAX_DEPTH = 6
_OPENING, _CLOSING = ("\\{", "\\langle", "(", "[", "{"), ("\\}", "\\rangle", ")", "]", "}")
_JOINER = re.compile(
    rf"\s*[,;、]\s*(?:(?:and|or)\b\s*)?|\s+(?:and|or)(?![A-Za-z])\s*|\s*(?:{JOINED.pattern})\s*(?=[-\d\\(A-Za-z])"
)
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_NAME = re.compile(
    rf"(?:m?\s*\\angle\s*)?(?:\\[A-Za-z]+|[A-Za-z{LETTERS}][A-Za-z {LETTERS}]*)'*"
    rf"(?:\s*_\s*(?:\{{[^{{}}]*\}}|\w))?'*(?:\s*\([^()=,]{{1,20}}\))?"
)
_NO_NAME = re.compile(
    r"\\(?:frac|sqrt|pi|sin|cos|tan|log|ln|infty|pm|mp|cdot|times|text|overline|sum|int|lim|begin|exp|max|min|cot|sec|csc)(?![A-Za-z])"
    r"|(?:i|e)$|(?:not|no|never|either|neither|less|more|least|most|about|than|if)\b",
    re.IGNORECASE,
)
_EQUALS = re.compile(r"(?<![<>!\\=:])=(?!=)|\\in(?![A-Za-z])\s*(?=\\\{|[(\[])")
_COLON = re.compile(rf"([A-Za-z{LETTERS}][A-Za-z {LETTERS}]{{1,30}}):\s*(?=\S)")
_ALTERNATING = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_MATRIX = re.compile(r"\\begin\s*\{pmatrix\}(.*?)\\end\s*\{pmatrix\}", re.DOTALL)
_SYMBOL = re.compile(r"(?:\\[A-Za-z]+|[A-Za-z]{1,3})(?:_\w+)?'*(?:\([^()]*\))?")
_NEIGHBOURS = ("abcd", "xyzw", "mn", "pqrs", "uvw", "ABCD", "XYZ", "PQR", "MN", "kl", "ijk", "hk", "st")


@dataclass(frozen=True)
class Node:
    r"""A leaf, or several nodes. name: what stands before its "=", where that is a name.

    Example: of (x, 2), Node("(", (Node("", text="x"), Node("", text="2"))).
    """

    kind: str  # "" of a leaf, "list", "set", "matrix", or the brackets: "()", "[]", "(]", "[)", "][" ...
    parts: tuple[Node, ...] = ()
    text: str = ""
    name: str = ""
    names: tuple[str, ...] = field(default=())  # of "(x, y) = (2, 3)"

    @property
    def is_ordered(self) -> bool:
        return self.kind not in ("", "list", "set")


def leaves(node: Node) -> list[str]:
    """The texts of all single values in it."""
    return [text for part in node.parts for text in leaves(part)] if node.kind else [node.text]


SameLeaf = Callable[[str, str], bool]


@lru_cache(maxsize=2048)
def read(text: str) -> Node:
    """What a plain form says, as nodes; a leaf where it is a single value."""
    return _read(text, 0) if len(text) <= _LONGEST else Node("", text=text)


def _read(text: str, depth: int) -> Node:
    text = text.strip()
    parts = split(text) if depth < _MAX_DEPTH else [text]
    if 1 < len(parts) <= _MOST_PARTS:
        nodes = [node for part in parts for node in _alternatives(_part(part, depth + 1))]
        return Node("list", tuple(_with_shared_name(nodes)))
    nodes = _alternatives(_part(text, depth + 1))
    return nodes[0] if len(nodes) == 1 else Node("list", tuple(nodes))


def _with_shared_name(nodes: list[Node]) -> list[Node]:
    """ "x = 1, 2" names both; so does "(x, y) = (1, 2), (3, 4)"."""
    first, *others = nodes
    if (first.name or first.names) and not any(each.name or each.names for each in others):
        return [replace(each, name=first.name, names=first.names) for each in nodes]
    return nodes


def _alternatives(node: Node) -> list[Node]:
    r"""\pm 3 is 3 and -3; what has two of these signs is left as it is."""
    if node.kind or len(_ALTERNATING.findall(node.text)) != 1:
        return [node]
    sign = _ALTERNATING.search(node.text)
    assert sign is not None
    before, behind = node.text[: sign.start()], node.text[sign.end() :].lstrip()
    plus = "+" if before.strip() and before.rstrip()[-1] not in "({=" else ""
    return [replace(node, text=f"{before}{plus}{behind}"), replace(node, text=f"{before}-{behind}")]


def _part(text: str, depth: int) -> Node:
    text = text.strip()
    if label := _COLON.match(text):
        return replace(_value(text[label.end() :], depth), name=_plain_name(label[1]))
    sides = [side.strip() for side in _top_level(text, _EQUALS)]
    if len(sides) < 2 or not all(sides):
        return _value(text, depth)
    left, value = sides[0], sides[-1]
    if len(sides) == 2 and not is_name(left) and is_name(value) and len(value) == 1:
        left, value = value, left  # 5 = x
    if is_name(left) and (len(left.strip("\\'")) > 2 or left not in _letters_of(value)):
        return replace(_value(value, depth), name=_plain_name(left))
    pair = _value(left, depth)
    if pair.kind == "()" and all(is_name(part.text) for part in pair.parts):
        return replace(_read(value, depth), names=tuple(_plain_name(part.text) for part in pair.parts))
    return Node("", text=text)  # an equation


def is_name(text: str) -> bool:
    """Whether the left side of an equation is only a name of what is on the right."""
    return _NAME.fullmatch(text) is not None and _NO_NAME.match(text) is None


def _plain_name(name: str) -> str:
    plain = re.sub(r"[\s{}]", "", name)
    return plain if _SYMBOL.fullmatch(plain) else plain.casefold()


def _are_other_names(one: str, two: str) -> bool:
    """Whether they name two things; a name in words is often only what the question calls it."""
    return bool(one and two and one != two and _SYMBOL.fullmatch(one) and _SYMBOL.fullmatch(two))


def _letters_of(text: str) -> set[str]:
    return set(re.findall("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text)))


def _value(text: str, depth: int) -> Node:
    text = text.strip()
    if matrix := _MATRIX.fullmatch(text):
        rows = [row for row in re.split(r"\\\\", matrix[1]) if row.strip()]
        cells = [[Node("", text=cell.strip()) for cell in row.split("&")] for row in rows]
        return Node("matrix", tuple(Node("row", tuple(row)) for row in cells))
    opened, closed = _bracket(text, _OPENING), _bracket(text, _CLOSING, at_end=True)
    if opened and closed and depth < _MAX_DEPTH and _closes_at_end(text):
        inside = text[len(opened) : len(text) - len(closed)]
        parts = split(inside)
        if opened == "(" and len(parts) == 1 and _bracket(inside.strip(), _OPENING) and _closes_at_end(inside.strip()):
            return _value(inside, depth + 1)
        if opened == "\\{":
            nodes = [node for part in parts for node in _alternatives(_part(part, depth + 1))]
            return Node("set", tuple(nodes)) if inside.strip() else Node("", text="\\emptyset")
        if 1 < len(parts) <= _MOST_PARTS and opened != "{":
            kind = "()" if opened == "\\langle" else opened + closed
            return Node(kind, tuple(_part(part, depth + 1) for part in parts))
    return Node("", text=text)


def _bracket(text: str, signs: tuple[str, ...], at_end: bool = False) -> str:
    return next((sign for sign in signs if (text.endswith(sign) if at_end else text.startswith(sign))), "")


def split(text: str) -> list[str]:
    """The parts of a list, at its joiners outside of all brackets; a comma that only groups digits joins nothing."""
    kept = text
    if re.search(r", |;|\d\s+(?:and|or)\b", text):  # then "1,234, 5" has two parts
        kept = _THOUSANDS.sub(lambda match: match.group().replace(",", "\0"), text)
    return [part.replace("\0", ",") for part in _top_level(kept, _JOINER)]


def _top_level(text: str, separator: re.Pattern[str]) -> list[str]:
    """The text, split where the pattern matches outside of brackets and environments."""
    parts, start, place, depth = [], 0, 0, 0
    while place < len(text):
        if text.startswith("\\begin", place) or _bracket(text[place : place + 8], _OPENING):
            depth += 1
            place += len(_bracket(text[place : place + 8], _OPENING)) or 6
        elif text.startswith("\\end", place) or _bracket(text[place : place + 8], _CLOSING):
            depth -= 1
            place += len(_bracket(text[place : place + 8], _CLOSING)) or 4
        elif depth == 0 and (match := separator.match(text, place)) and match.end() > place:
            parts.append(text[start:place])
            start = place = match.end()
        else:
            place += 1
    return [*parts, text[start:]]


def _closes_at_end(text: str) -> bool:
    """Whether the bracket at the start is closed by the one at the end; of which kind does not matter: (0, 1]."""
    depth, place = 0, 0
    while place < len(text):
        opened, closed = _bracket(text[place : place + 8], _OPENING), _bracket(text[place : place + 8], _CLOSING)
        depth += bool(opened) - bool(closed)
        place += len(opened or closed) or 1
        if depth == 0:
            return place >= len(text)
    return False


def same_structure(found: Node, gold: Node, same_leaf: SameLeaf) -> bool:
    """Whether two answers say the same values, of the same names where both name them, in the same order where that
    matters. A set of one value is that value.
    """
    return _same(_of_one(found), _of_one(gold), same_leaf)


def _of_one(node: Node) -> Node:
    return node.parts[0] if node.kind in ("set", "list") and len(node.parts) == 1 else node


def _same(found: Node, gold: Node, same_leaf: SameLeaf) -> bool:
    if names_by_part(found) and names_by_part(gold):
        return _same_named(found, gold, same_leaf)
    if _are_other_names(found.name, gold.name):
        return False
    if gold.names and found.names and gold.names != found.names:
        if sorted(gold.names) != sorted(found.names) or len(found.parts) != len(found.names):
            return False
        by_name = dict(zip(found.names, found.parts, strict=True))
        found = replace(found, parts=tuple(by_name[name] for name in gold.names))
    mine, other = _comparable(found), _comparable(gold)
    if not mine.kind and not other.kind:
        return same_leaf(mine.text, other.text)
    if not mine.kind or not other.kind:
        return False
    if len(mine.parts) != len(other.parts) or not _are_of_kinds(mine, other):
        return False
    if _is_in_order(found, gold, mine, other):
        return all(_same(*pair, same_leaf) for pair in zip(mine.parts, other.parts, strict=True))
    return _same_in_any_order(mine.parts, other.parts, same_leaf)


def _comparable(node: Node) -> Node:
    """Named values that are compared with values without names: in the order of the names, where letters have one."""
    names = names_by_part(node) or node.names
    order = _order(names) if names and len(names) == len(node.parts) else None
    if order is None:
        return node
    return replace(node, parts=tuple(replace(node.parts[place], name="") for place in order))


def _order(names: tuple[str, ...]) -> list[int]:
    """In which order names are read: y before z whatever stands first; names that have no order, as they stand."""
    letters = "".join(names)
    if all(len(name) == 1 for name in names) and any(set(letters) <= set(group) for group in _NEIGHBOURS):
        group = next(group for group in _NEIGHBOURS if set(letters) <= set(group))
        return sorted(range(len(names)), key=lambda place: group.index(names[place]))
    return list(range(len(names)))


def names_by_part(node: Node) -> tuple[str, ...]:
    """The names of a list's values where each has one of its own, else none."""
    names = tuple(part.name for part in node.parts) if node.kind in ("list", "()", "set") else node.names
    if node.names and node.kind == "()":
        names = node.names
    return names if all(names) and len(set(names)) == len(names) > 1 else ()


def _same_named(found: Node, gold: Node, same_leaf: SameLeaf) -> bool:
    mine, other = (dict(zip(names_by_part(node), node.parts, strict=False)) for node in (found, gold))
    if mine.keys() != other.keys():
        return False
    unnamed = {name: replace(part, name="") for name, part in mine.items()}
    return all(_same(unnamed[name], replace(part, name=""), same_leaf) for name, part in other.items())


def _are_of_kinds(mine: Node, other: Node) -> bool:
    free = {"list", "set"}
    if mine.kind in free and other.kind in free:
        return True
    if {mine.kind, other.kind} == {"list", "()"}:  # the brackets left out
        return True
    return mine.kind == other.kind


def _is_in_order(found: Node, gold: Node, mine: Node, other: Node) -> bool:
    """Whether the first value has to be the first one: of pairs, and where one side's names say which is which."""
    if mine.is_ordered or other.is_ordered:
        return True
    names = names_by_part(gold) or names_by_part(found)
    return bool(names) and len({re.sub(r"[_\d{}']", "", name) for name in names}) > 1


def _same_in_any_order(mine: tuple[Node, ...], other: tuple[Node, ...], same_leaf: SameLeaf) -> bool:
    left = list(other)
    for part in mine:
        place = next((index for index, each in enumerate(left) if _same(part, each, same_leaf)), None)
        if place is None:
            return False
        del left[place]
    return True
