"""Which environment a run has, as data that its processes are given, and what makes one of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mindrlhf_lite.episodes.environment import Environment
from mindrlhf_lite.episodes.guessing import GuessNumber
from mindrlhf_lite.episodes.gymnasium_text import GymnasiumText
from mindrlhf_lite.episodes.search import open_library
from mindrlhf_lite.episodes.tools import Tool, ToolEnvironment, find_tool, name_of_tool
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.own_functions import find_function

BUILT_IN_ENVIRONMENTS: dict[str, type[Environment]] = {"guess_number": GuessNumber, "gymnasium": GymnasiumText}


@dataclass(frozen=True)
class EnvironmentSpec:
    """Example: EnvironmentSpec(tools=["calculator"], schemas=[schema_of("calculator")])"""

    environment: str = ""  # a built-in name, FILE.py:Class, or a dotted path; "": tools
    tools: list[str] = field(default_factory=list)
    schemas: list[Any] = field(default_factory=list)  # of the tools
    arguments: dict[str, Any] = field(default_factory=dict)  # of the constructor
    call_format: str = "hermes"
    memory_bytes: int = 4 << 30  # that an environment may take besides what its process has

    @property
    def name(self) -> str:
        """In messages."""
        return self.environment or f"tools {', '.join(self.tools)}"


def find_environment(name: str) -> type[Environment]:
    """A built-in environment by name, or a user's class.

    Raises:
        ValueError: there is none, or it is no Environment.
    """
    if name in BUILT_IN_ENVIRONMENTS:
        return BUILT_IN_ENVIRONMENTS[name]
    if "." not in name:
        raise UserError(
            f"environment {name!r} is unknown: use one of {', '.join(BUILT_IN_ENVIRONMENTS)}, or name your own class "
            "as FILE.py:Class, or by its dotted path"
        )
    found: Any = find_function(name, "environment")
    if not (isinstance(found, type) and issubclass(found, Environment)):
        raise UserError(f"environment {name!r} is no class that inherits from mindrlhf_lite.episodes.Environment")
    return found


def maker_of(spec: EnvironmentSpec) -> Callable[[], Environment]:
    """What makes an environment.

    Raises:
        ValueError: there is no such environment or tool, or its constructor does not take the arguments.
    """
    if spec.environment:
        kind, given = find_environment(spec.environment), spec.arguments
    else:
        functions = zip(spec.tools, spec.schemas, strict=True)
        tools = [Tool(name_of_tool(name), find_tool(name), schema) for name, schema in functions]
        kind, given = ToolEnvironment, {"tools": tools, **spec.arguments}
        if "search" in spec.tools:
            if not (folder := spec.arguments.get("folder")):
                raise UserError("environment_config.tools: search needs environment_config.arguments: [folder=DIR]")
            open_library(str(folder))
    try:
        inspect.signature(kind).bind(**given)
    except TypeError as error:
        raise UserError(
            f"environment_config.arguments={sorted(spec.arguments)}: {spec.name}: {error}; it takes "
            f"{', '.join(_names_of(kind)) or 'none'}"
        ) from None
    return lambda: kind(**given)


def _names_of(kind: type[Environment]) -> Sequence[str]:
    return [name for name in inspect.signature(kind).parameters if name != "tools" or kind is not ToolEnvironment]
