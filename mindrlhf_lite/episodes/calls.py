r"""Tool calls in the policy's text, by the formats that models are trained on. A call that cannot be read says why.

Text is what the tokenizer decodes: marks such as <|python_tag|> are not in it, tags such as <tool_call> are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mindrlhf_lite.episodes.environment import ToolCall

_LONGEST = 1 << 16  # characters of a call
_SEPARATORS = " \t\r\n;"


@dataclass(frozen=True)
class CallFormat:
    """Example: CallFormat("<tool_call>", "</tool_call>", ("arguments",)): JSON between two tags"""

    opening: str = ""  # "": the whole text is JSON objects, or holds no call
    closing: str = ""
    arguments: tuple[str, ...] = ()  # keys of the JSON object that hold them; none: what stands there is code
    tool: str = ""  # the one that gets code, as its argument `code`


FORMATS = {
    "hermes": CallFormat("<tool_call>", "</tool_call>", ("arguments", "parameters")),  # Qwen2.5, Qwen3, Hermes
    "llama3_json": CallFormat(arguments=("parameters", "arguments")),
    "python_block": CallFormat("```python\n", "```", tool="python"),
}


def find_calls(text: str, name: str) -> tuple[ToolCall, ...]:
    """All calls of a text, in order. Args: name: of `FORMATS`."""
    how = FORMATS[name]
    if not how.opening:
        return tuple(_whole_text(text, how))
    found, start = [], text.find(how.opening)
    while start >= 0:
        begin = start + len(how.opening)
        end = text.find(how.closing, begin)
        if end < 0:
            found.append(ToolCall("", problem=f"{how.opening.strip()} without {how.closing}"))
            break
        body = text[begin:end]
        found.append(_call(body, how) if how.arguments else ToolCall(how.tool, {"code": body}))
        start = text.find(how.opening, end + len(how.closing))
    return tuple(found)


def _whole_text(text: str, how: CallFormat) -> Iterator[ToolCall]:
    rest = text.strip(_SEPARATORS)
    while rest.startswith("{"):
        try:
            value, end = json.JSONDecoder().raw_decode(rest[:_LONGEST])
        except (ValueError, RecursionError) as error:
            yield ToolCall("", problem=_not_json(error))
            return
        yield _of_object(value, how)
        rest = rest[end:].strip(_SEPARATORS)


def _call(body: str, how: CallFormat) -> ToolCall:
    if len(body) > _LONGEST:
        return ToolCall("", problem=f"a call of {len(body)} characters; {_LONGEST} are the most")
    try:
        return _of_object(json.loads(body), how)
    except (ValueError, RecursionError) as error:
        return ToolCall("", problem=_not_json(error))


def _not_json(error: Exception) -> str:
    return f"the call is not JSON: {re.sub(r'[^ -~]', '?', str(error))[:200]}"


def _of_object(value: object, how: CallFormat) -> ToolCall:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return ToolCall("", problem='a call is a JSON object with "name", a text')
    name, key = value["name"], next((key for key in how.arguments if key in value), how.arguments[0])
    arguments = value.get(key, {})
    if not isinstance(arguments, dict):
        return ToolCall(name, problem=f'"{key}" of a call is a JSON object')
    return ToolCall(name, arguments)
