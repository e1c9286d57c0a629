"""Faults of a file: of its bytes, or of what it says. JSON and YAML are parsed, one value or key becomes something that
nobody expects there, and the rest stays valid: that reaches further than flipped bits, which the parsers refuse.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import yaml

_PLACE = "a place for something hostile"
_DEEP = 3000
# as JSON, or what JSON's readers take for it
VALUES = (
    *("null", "true", "false", "0", "-1", "1", "2", "0.5", "-0.0", "1e308", "1e400", "NaN", "Infinity", "-Infinity"),
    *('""', '" "', "[]", "{}", "[1, 2]", "[null]", "[[]]", '{"a": 1}', '[{"a": [1]}]', '["a", "b"]'),
    *("12345678901234567890", "9" * 400, "9" * 5000, '"9"', '"1e-6"', '"NaN"', '"true"', '"a,b"'),
    *('"../../../etc/passwd"', '"/etc/passwd"', '".."', '"a\\u0000b"', '"\\ud800"', '"\\u001b[2J\\nerror: rank 0: x"'),
    *(
        '"<script>x</script>"',
        '"' + "x" * 100_000 + '"',
        "[" * _DEEP + "]" * _DEEP,
        '{"a": ' * _DEEP + "1" + "}" * _DEEP,
    ),
    *('{"a": ' * 90 + "1" + "}" * 90, "{oops", '"\\u00b2"', '"\u00b2"'),
)
# in a YAML file only
YAML_VALUES = (
    *("&a [*a]", "*nowhere", "!!int ''", "!!bool maybe", "!!timestamp x", "2020-99-99", "2020-01-01", "!!binary eA=="),
    *("!!python/object/apply:os.getcwd []", "!!set {a, b}", "0x" + "f" * 5000, "1:" * 5000 + "1", ".nan", ".inf"),
)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one fault."""
    place, kind = rng.randrange(len(data)), rng.randrange(6)
    size = rng.choice([1, 4, 64, 1024])
    if kind == 0:
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if kind == 1:
        return data[:place]
    if kind == 2:
        return data[:place] + bytes(min(size, len(data) - place)) + data[place + size :]
    if kind == 3:
        return data[:place] + data[place + size :]
    if kind == 4:
        return data[:place] + data[place : place + size] + data[place:]
    return data[:place] + rng.randbytes(min(size, len(data) - place)) + data[place + size :]


def misleading(name: str, data: bytes, rng: random.Random) -> bytes:
    """The file with one value, or key, replaced, left out or doubled. Args: name: ends in .json, .jsonl or .yaml."""
    if name.endswith(".jsonl"):
        lines = data.decode().rstrip("\n").split("\n")
        at = rng.randrange(len(lines))
        lines[at] = _changed(json.loads(lines[at]), rng, VALUES)
        return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    if name.endswith((".yaml", ".yml")):
        return _changed(yaml.safe_load(data), rng, VALUES + YAML_VALUES).encode("utf-8", "surrogatepass")
    return _changed(json.loads(data), rng, VALUES).encode("utf-8", "surrogatepass")


def _changed(values: Any, rng: random.Random, hostile: tuple[str, ...]) -> str:
    """The text of the values with one fault."""
    holders = list(_holders(values))
    if not holders or rng.random() < 0.03:
        return rng.choice(hostile)
    holder = rng.choice(holders)
    key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    fault: Callable[[Any, Any, random.Random], None] = rng.choices([_replace, _rename, _leave_out], [8, 1, 1])[0]
    fault(holder, key, rng)
    text = json.dumps(values, default=str)
    if rng.random() < 0.05:  # the first key of the whole, twice
        first = next(iter(values), "") if isinstance(values, dict) else ""
        text = text.replace("{", f"{{{json.dumps(first)}: 1, ", 1)
    return text.replace(json.dumps(_PLACE), rng.choice(hostile), 1)


def _holders(values: Any) -> list[Any]:
    """Every mapping and list, with something in it, of nested ones."""
    found, waiting = [], [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list) and value:
            found.append(value)
            waiting += value.values() if isinstance(value, dict) else value
    return found


def _replace(holder: Any, key: Any, rng: random.Random) -> None:
    holder[key] = _PLACE


def _rename(holder: Any, key: Any, rng: random.Random) -> None:
    value = holder.pop(key)
    if isinstance(holder, dict):
        holder[rng.choice(["", "..", "a\0b", "x" * 1000, "\ud800", "1", "weights.0", str(key) + "_"])] = value


def _leave_out(holder: Any, key: Any, rng: random.Random) -> None:
    holder.pop(key)
