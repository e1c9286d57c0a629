"""YAML as people mean it: a key that stands twice in one mapping is a mistake, not the last one's victory. Aliases may
repeat values, but not multiply them without end: a file of 300 bytes could stand for a billion.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import read_text

_MOST_VALUES = 100_000  # of a file, each counted as often as aliases repeat it
_LONGEST_NUMBER = (
    128  # characters; longer ones no float holds, and in base 60 they take a time that grows as the square
)


class _StrictLoader(yaml.SafeLoader):
    num_keys = 0  # of all mappings so far, each counted as often as it is merged

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if not isinstance(node, yaml.MappingNode):  # "!!map [1]"
            raise yaml.constructor.ConstructorError(problem="a mapping is needed", problem_mark=node.start_mark)
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    problem="a key is a list or a mapping; a name is needed", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key} stands twice in one mapping", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """With "<<" of one mapping many times over, its keys are there once: they cannot multiply level by level. A
        chain of them repeats the keys of all before it: those are counted before they are copied.
        """
        self.num_keys += len(node.value)
        if self.num_keys > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                problem=f'its mappings hold more than {_MOST_VALUES:,} keys, with those that "<<" repeats',
                problem_mark=node.start_mark,
            )
        super().flatten_mapping(node)
        node.value = list({id(key): (key, value) for key, value in node.value}.values())

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        if len(node.value) > _LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(
                problem=f"a number of {len(node.value):,} characters; if it is a text, put it in quotes",
                problem_mark=node.start_mark,
            )
        return self.construct_yaml_float(node) if node.tag.endswith(":float") else self.construct_yaml_int(node)

    def refuse_tag(self, node: yaml.Node) -> None:
        raise yaml.constructor.ConstructorError(
            problem=f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not supported; "
            "write a list or a mapping",
            problem_mark=node.start_mark,
        )


for _kind in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _StrictLoader.construct_number)
for _kind in ("omap", "pairs", "set"):  # no setting needs them, and their values are none that `_count` knows
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _StrictLoader.refuse_tag)


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
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML's own on a date that is none, "!!bool maybe", "!!int ''"
        raise yaml.YAMLError(f"a value cannot be read ({type(error).__name__}: {error})") from None


def read_yaml_file(path: str | Path, named: str = "") -> Any:
    """What `load_yaml` makes of a file. Args: named: the setting or option that it belongs to, for errors.

    Raises:
        UserError: it is no YAML, and where, or no text in UTF-8.
    """
    try:
        return load_yaml(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(f"{named} {where}: not valid YAML ({problem})".lstrip()) from None


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
