"""The text that a reward model reads where it has a template of its own (reward_config.reward_model.template)."""

from __future__ import annotations

import re

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.types import Prompt

CHAT, COMPLETION, PROMPT = "chat:", "completion", "prompt"
_SLOT = re.compile(r"\{(\w+)\}")


def template_problem(template: str) -> str:
    """What is wrong with it; "" where nothing is."""
    if not template:
        return ""
    if template.startswith(CHAT):
        return "" if template.removeprefix(CHAT).isidentifier() else "chat: is followed by prompt, or a kept column"
    return "" if _SLOT.findall(template).count(COMPLETION) == 1 else "must hold {completion} once"


def question_of(template: str, prompt: Prompt) -> str:
    """The user's turn where the template is chat:NAME. Raises UserError where the data has no such column."""
    return _value(template.removeprefix(CHAT), prompt)


def filled(template: str, prompt: Prompt, completion: str) -> str:
    """{completion}, {prompt} and kept columns put in; what these hold is left as it is.

    Example: filled("Q: {question} A: {completion}", Prompt(.., columns={"question": "2+3?"}), "5") is "Q: 2+3? A: 5"

    Raises:
        UserError: the data has no such column.
    """
    return _SLOT.sub(lambda found: completion if found[1] == COMPLETION else _value(found[1], prompt), template)


def _value(name: str, prompt: Prompt) -> str:
    if name == PROMPT:
        return prompt.text
    if name not in prompt.columns:
        raise UserError(
            f"reward_config.reward_model.template: the data has no column {name!r}; convert it with "
            f"tools/rlhf_data.py --keep_columns {name}"
        )
    return str(prompt.columns[name])
