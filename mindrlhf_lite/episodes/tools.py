"""Tools: plain functions with annotations and docstrings, and the environment that they make together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindrlhf_lite.episodes.calculator import calculator
from mindrlhf_lite.episodes.environment import Action, Environment, EnvironmentFailure, Messages, Step, Task, ToolCall
from mindrlhf_lite.episodes.python_tool import python
from mindrlhf_lite.episodes.search import search
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.own_functions import find_function

BUILT_IN_TOOLS: dict[str, Callable[..., Any]] = {"calculator": calculator, "python": python, "search": search}
_LONGEST = 1 << 14  # characters of a tool's answer
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


@dataclass(frozen=True)
class Tool:
    """Example: Tool("calculator", calculator, schema_of("calculator", calculator))"""

    name: str
    function: Callable[..., Any]
    schema: Mapping[str, Any]

    def problem_of(self, arguments: Mapping[str, Any]) -> str:
        """Why the function cannot be called with them; empty: it can."""
        parameters = self.schema["function"]["parameters"]
        known = parameters.get("properties", {})
        if unknown := [name for name in arguments if name not in known]:
            return f"{self.name} has no argument {unknown[0]!r}; it has {', '.join(known) or 'none'}"
        if missing := [name for name in parameters.get("required", []) if name not in arguments]:
            return f"{self.name} needs the argument {missing[0]!r}"
        for name, value in arguments.items():
            wanted = known[name].get("type")
            is_odd = isinstance(value, bool) and wanted in ("integer", "number")
            if isinstance(wanted, str) and wanted in _TYPES and (is_odd or not isinstance(value, _TYPES[wanted])):
                return f"the argument {name!r} of {self.name} must be of type {wanted}"
        return ""


def find_tool(name: str) -> Callable[..., Any]:
    """A built-in tool by name, or a user's function.

    Raises:
        ValueError: there is none.
    """
    if name in BUILT_IN_TOOLS:
        return BUILT_IN_TOOLS[name]
    if "." not in name:
        raise UserError(
            f"tool {name!r} is unknown: use one of {', '.join(BUILT_IN_TOOLS)}, or name your own function as "
            "FILE.py:function, or by its dotted path"
        )
    return find_function(name, "tool")


def name_of_tool(name: str) -> str:
    """What the policy calls it. Example: "my_tools.py:search" -> "search"."""
    return name.rpartition(":")[2].rpartition(".")[2]


def schema_of(name: str) -> dict[str, Any]:
    """The JSON schema of a tool, of its annotations and docstring, as chat templates take it.

    Raises:
        ValueError: there is no such tool, or it lacks an annotation or the words for an argument.
    """
    from transformers.utils import get_json_schema

    try:
        schema = get_json_schema(find_tool(name))
    except UserError:
        raise
    except Exception as error:  # it has a kind of its own for each
        raise UserError(
            f"tool {name!r}: {' '.join(str(error).split())}; a tool has annotations, and a docstring with Args"
        ) from None
    schema["function"]["name"] = name_of_tool(name)
    schema["function"].pop("return", None)
    return schema


class ToolEnvironment(Environment):
    """A question, and tools to answer it with. A turn without a call is the answer: the episode is over.

    Args:
        tools: that the policy may call.
        system: a system message before the question.
        role: of the tools' answers; for a chat template that knows no tool messages: user.
        answers_as: "messages" for the chat template; "text": the answers alone, for a model without one.
        folder: of text files, for the tool search.
        opens: whether it asks the question in messages; else the prompt stays as it is.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        system: str = "",
        role: str = "tool",
        answers_as: str = "messages",
        folder: str = "",
        opens: bool = True,
    ):
        self._tools, self._system, self._role = {tool.name: tool for tool in tools}, system, role
        if answers_as not in ("messages", "text"):
            raise UserError(f"answers_as={answers_as!r}: must be messages or text")
        self._as_text = answers_as == "text"
        self._opens = opens and not self._as_text

    def reset(self, task: Task, seed: int) -> Messages | None:
        if not self._opens:
            return None
        before = [{"role": "system", "content": self._system}] if self._system else []
        return [*before, {"role": "user", "content": task.prompt}]

    def step(self, action: Action) -> Step:
        if not action.calls:
            return Step(done=True)
        answers = [self._answer(call) for call in action.calls]  # in order
        malformed = sum(not is_well for _, is_well in answers)
        info = {"malformed": malformed}
        if self._as_text:
            return Step("".join(text for text, _ in answers) or "\n", info=info)
        return Step([{"role": self._role, "content": text} for text, _ in answers], info=info)

    def _answer(self, call: ToolCall) -> tuple[str, bool]:
        """(what the policy reads, whether the call was well-formed)."""
        if call.problem:
            return f"error: {call.problem}", False
        tool = self._tools.get(call.name)
        if tool is None:
            return f"error: there is no tool {call.name[:40]!r}; there is {', '.join(self._tools)}", False
        if problem := tool.problem_of(call.arguments):
            return f"error: {problem}", False
        try:
            return str(tool.function(**call.arguments))[:_LONGEST], True
        except EnvironmentFailure:
            raise
        except Exception as error:  # what the policy asked for, of a function that may raise anything
            return f"error: {str(error)[:500] or type(error).__name__}", True
