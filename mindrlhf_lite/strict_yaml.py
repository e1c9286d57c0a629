"""YAML as people mean it: a key that stands twice in one mapping is a mistake, not the last one's victory. Aliases may
repeat values, but not multiply them without end: a file of 300 bytes could stand for a billion.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

_MOST_VALUES = 100_000  # of a file, each counted as often as aliases repeat it


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key} stands twice in one mapping", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """What `yaml.safe_load` gives.

    Raises:
        yaml.YAMLError: not YAML, or a key stands twice; `problem_mark` says where.
    """
    try:
        values = yaml.load(text, Loader=_StrictLoader)
        if _count(values, _MOST_VALUES) > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases repeat values without end, or more than {_MOST_VALUES:,} times")
        return values
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits, a date that is none
        raise yaml.YAMLError(f"a value cannot be read: {error}") from None


def _count(values: Any, most: int) -> int:
    """How many values there are, repeated ones as often as they are; it stops beyond `most`."""
    waiting, count = [values], 0
    while waiting and count <= most:
        value = waiting.pop()
        count += 1
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return count
