"""Writes a translated configuration as the shortest YAML that means the same."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import yaml

from mindrlhf_lite.config.aliases.translation import defaults_of_ours
from mindrlhf_lite.config.dotted import by_dotted_key
from mindrlhf_lite.config.load import collect


def shortest_yaml(values: dict[str, Any]) -> str:
    """Settings by full dotted key: sections in the order of docs/config.md, without what is at its default; what
    collect() finds wrong is left out.
    """
    config_values = _typed(values)
    defaults = defaults_of_ours()
    tree: dict[str, Any] = {}
    for key, default in defaults.items():
        if key in config_values and config_values[key] != default:
            place: dict[str, Any] = tree
            *sections, name = key.split(".")
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = config_values[key]
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def _typed(values: dict[str, Any]) -> dict[str, Any]:
    """The settings with the types that they have here."""
    return by_dotted_key(asdict(collect(values)[0]))


class _Dumper(yaml.SafeDumper):
    """Sections as blocks, lists in one line."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        return super().represent_mapping(tag, mapping, flow_style=False)
