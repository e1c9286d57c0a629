"""Prompts given as chat messages [{"role": .., "content": ..}], as in verl's Parquet files and TRL's JSON lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SYSTEM, _ROLES = ("system", "developer"), ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Turns:
    """Example: Turns("What is 2+3?", system="Be brief.", before=(("user", "Hi"), ("assistant", "Hello")))"""

    question: str  # the last user message
    system: str = ""
    before: tuple[tuple[str, str], ...] = ()  # (role, content) of what was said before it, without the system message


def are_messages(value: Any) -> bool:
    """Whether a field's value is a conversation, not a text."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and "role" in item and "content" in item for item in value)
    )


def turns_of(messages: Sequence[dict[str, Any]], may_answer: bool) -> Turns:
    """What a prompt is made of.

    Args:
        may_answer: what follows the last user message is a recorded answer, and is left out.

    Raises:
        ValueError: an unknown role, no user message, or an answer where there should be none.
    """
    said = [(role_of(message), content_of(message["content"])) for message in messages]
    last = max((place for place, (role, _) in enumerate(said) if role == "user"), default=None)
    if last is None:
        raise ValueError("none of the messages is the user's")
    if last < len(said) - 1 and not may_answer:
        raise ValueError(f"the last message is of role {said[-1][0]!r}; a prompt ends with the user's")
    system = [content for role, content in said[:last] if role in _SYSTEM]
    before = tuple((role, content) for role, content in said[:last] if role not in _SYSTEM)
    return Turns(said[last][1], "\n\n".join(system), before)


def role_of(message: Mapping[str, Any]) -> str:
    if message["role"] not in _ROLES:
        raise ValueError(f"a message has role {message['role']!r}; known: {', '.join(_ROLES)}")
    return message["role"]


def content_of(content: Any) -> str:
    """A text, or the texts of a list of parts {"type": "text", "text": ..}."""
    if isinstance(content, str):
        return content.strip()
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "\n".join(str(part.get("text") or "") for part in content).strip()
    raise ValueError(f"the content of a message is {str(content)[:60]!r}, a text is needed")
