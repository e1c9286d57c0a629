"""The words of a shell script, as text: variables and lists that it sets are put in their places, and nothing is run.

What only a shell could know, such as $(date), stays as it is written. Of branches every word is read.
"""

from __future__ import annotations

import ast
import operator
import re
import shlex
from collections.abc import Callable
from pathlib import Path

_SET = re.compile(r"(?:(?:export|local|readonly)\s+)?([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*")
_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def words_of_script(text: str) -> list[str]:
    """Words of all commands, in order.

    Example: words_of_script('N=4\\npython -m verl.trainer.main_ppo data.train_batch_size=$((N * 2))')[-1] ==
    "data.train_batch_size=8"
    """
    values: dict[str, str] = {"HOME": str(Path.home())}
    lists: dict[str, list[str]] = {}
    words: list[str] = []
    for line in _commands(text):
        if (found := _SET.fullmatch(line)) is None:
            words += _split(line, values, lists)
            continue
        name, adds, value = found.groups()
        if value.startswith("(") and value.endswith(")"):
            earlier = lists.get(name, []) if adds else []
            lists[name] = earlier + _split(value[1:-1], values, lists)
            continue
        given = _split(value, values, lists)
        if len(given) > 1:  # settings of one command's environment
            words += given[1:]
        values[name] = (values.get(name, "") if adds else "") + (given[0] if given else "")
    return words


def _commands(text: str) -> list[str]:
    """Lines with those that go on: by a backslash, within quotes, or within a list's brackets."""
    lines = [line for line in text.split("\n") if not line.lstrip().startswith("#")]
    found, held = [], ""
    for line in "\n".join(lines).replace("\\\n", " ").split("\n"):
        held = f"{held}\n{line}" if held else line
        in_list = re.match(r"\s*[A-Za-z_]\w*\+?=\(", held) and not held.rstrip().endswith(")")
        if in_list or _has_open_quote(held):
            continue
        if held.strip():
            found.append(held.strip())
        held = ""
    return found + ([held.strip()] if held.strip() else [])


def _has_open_quote(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def _split(text: str, values: dict[str, str], lists: dict[str, list[str]]) -> list[str]:
    try:
        return shlex.split(_expanded(text, values, lists), comments=True)
    except ValueError:
        return []  # quotes that nothing closes


def _expanded(text: str, values: dict[str, str], lists: dict[str, list[str]]) -> str:
    """With what stands for variables, quoted as it stands in quotes, or as single words."""
    out, place, quote = [], 0, ""
    while place < len(text):
        sign = text[place]
        if sign == "\\" and quote != "'":
            out.append(text[place : place + 2])
            place += 2
            continue
        if sign in "'\"" and quote in ("", sign):
            quote = "" if quote else sign
        if sign == "$" and quote != "'":
            end, found = _variable(text, place, values, lists)
            if isinstance(found, list):
                joined = " ".join(map(shlex.quote, found))
                out.append(f'" {joined} "' if quote else joined)
            elif found is not None:
                plain = found.replace("\\", "\\\\").replace('"', '\\"')
                out.append(plain if quote else " ".join(map(shlex.quote, found.split())))
            else:
                out.append(text[place:end])
            place = end
            continue
        out.append(sign)
        place += 1
    return "".join(out)


def _variable(
    text: str, start: int, values: dict[str, str], lists: dict[str, list[str]]
) -> tuple[int, str | list[str] | None]:
    """(behind what begins at a $, what stands there; None: as it is written)."""
    rest = text[start + 1 :]
    if rest.startswith("(("):
        end = rest.find("))")
        return (len(text), None) if end < 0 else (start + 1 + end + 2, _computed(rest[2:end], values))
    if rest.startswith("("):
        end = rest.find(")")
        return (len(text) if end < 0 else start + 1 + end + 1), None
    if rest.startswith("{"):
        end = _closing(rest)
        name = _NAME.match(rest[1:end])
        if name is None:
            return start + 1 + end + 1, None
        more = rest[1 + name.end() : end]
        if more in ("[@]", "[*]"):
            return start + 1 + end + 1, lists.get(name.group(), [])
        value = values.get(name.group())
        if more.startswith((":-", "-", ":=", "=")) and not value:
            value = _expanded(more.lstrip(":").lstrip("-="), values, lists).strip("\"'")
        return start + 1 + end + 1, value
    name = _NAME.match(rest)
    if name is None:  # $@, $1, $?
        return start + 2, ""
    return start + 1 + name.end(), values.get(name.group())


def _closing(text: str) -> int:
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return place
    return len(text)


def _computed(text: str, values: dict[str, str]) -> str | None:
    """A whole number of arithmetic; None where it is none."""
    words = _NAME.sub(lambda found: values.get(found.group(), found.group()), text.replace("$", "").strip("{} "))
    try:
        return str(_number(ast.parse(words.replace("/", "//"), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def _number(node: ast.AST) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_number(node.left), _number(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand)
    raise ValueError
