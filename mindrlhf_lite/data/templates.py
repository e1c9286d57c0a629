"""Prompt templates, read from templates.yaml beside this file or from a user's YAML of the same form.

A template is a text with {question}, and {system} where rows bring their own system message; or a mapping of the turns
system, user and assistant (the beginning of the answer), which `chat_template` turns into text: chatml (Qwen's form,
the default), tokenizer (what the tokenizer's files say), or tokenizer:NAME (of several that they name).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.strict_yaml import read_yaml_file

_BUILT_IN = Path(__file__).with_name("templates.yaml")
_QUESTION, _SYSTEM = "{question}", "{system}"
_OWN = "tokenizer"  # the chat template of the tokenizer's files
_TURNS, _FORMS = ("system", "user", "assistant"), ("chatml", _OWN)
_PROBE = "Wie viele Murmeln bleiben übrig? 7"


Turns = tuple[tuple[str, str], ...]


def _fill(text: str, question: str, system: str) -> str:
    """Puts row texts in; other braces (as in \\boxed{}) stay, also those that the texts themselves hold."""
    before, slot, after = text.partition(_QUESTION)
    return before.replace(_SYSTEM, system) + (question if slot else "") + after.replace(_SYSTEM, system)


@dataclass(frozen=True)
class Template:
    """Example: Template("plain", render=lambda question, system: question, takes_system=False)"""

    name: str
    render: Callable[[str, str], str]  # question, the row's system message -> prompt
    takes_system: bool
    # the same of a row that is a conversation, with its earlier (role, content); None: the template has no place for it
    render_turns: Callable[[str, str, Turns], str] | None = None


def load_template(name: str, tokenizer: Tokenizer) -> Template:
    """The template called `name`, the one in a YAML file given as FILE.yaml:NAME, or the tokenizer's own chat template
    of a name, given as chat:NAME.

    Raises:
        ValueError: no such template, or one that loses the question.
    """
    path, _, key = name.rpartition(":")
    source = Path(path) if path else _BUILT_IN
    if path == "chat" and not source.exists():
        return _checked(name, _of_turns(name, {"user": _QUESTION, "chat_template": f"{_OWN}:{key}"}, tokenizer))
    if not source.is_file():
        raise UserError(f"--prompt_type {name}: no file {source}")
    templates = read_yaml_file(source, f"--prompt_type {name}:")
    if not isinstance(templates, dict):
        raise UserError(f"--prompt_type {name}: {source} must map names to templates")
    if key not in templates:
        raise UserError(f"--prompt_type {name}: unknown; known: {', '.join(map(str, templates))}")
    given = templates[key]
    if isinstance(given, str):
        template = _of_text(name, given)
    elif isinstance(given, dict):
        template = _of_turns(name, given, tokenizer)
    else:
        raise UserError(f"--prompt_type {name}: must be a text or a mapping of {', '.join(_TURNS)}")
    return _checked(name, template)


def as_chatml(messages: Iterable[Mapping[str, str]]) -> str:
    return "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)


def _checked(name: str, template: Template) -> Template:
    if template.render(_PROBE, "").count(_PROBE) != 1:
        raise UserError(
            f"--prompt_type {name}: the prompt does not hold the question exactly once; put {_QUESTION} in, once"
        )
    return template


def _of_text(name: str, text: str) -> Template:
    if text.count(_QUESTION) != 1:
        raise UserError(f"--prompt_type {name}: the template must hold {_QUESTION} exactly once")
    # an assistant turn starts after the newline that YAML cannot keep at the end of a block
    text += "\n" if text.endswith("<|im_start|>assistant") else ""
    return Template(name, lambda question, system: _fill(text, question, system), _SYSTEM in text)


def _of_turns(name: str, turns: Mapping[str, str], tokenizer: Tokenizer) -> Template:
    form = turns.get("chat_template", "chatml")
    if unknown := set(turns) - {*_TURNS, "chat_template"}:
        raise UserError(
            f"--prompt_type {name}: {', '.join(sorted(map(str, unknown)))} is unknown; known: "
            f"{', '.join(_TURNS)}, chat_template"
        )
    if not all(isinstance(text, str) for text in turns.values()) or form.partition(":")[0] not in _FORMS:
        raise UserError(
            f"--prompt_type {name}: turns must be texts, and chat_template one of {', '.join(_FORMS)}, {_OWN}:NAME"
        )
    if turns.get("user", "").count(_QUESTION) != 1:
        raise UserError(f"--prompt_type {name}: the user's turn must hold {_QUESTION} exactly once")
    is_own, own_name = form.partition(":")[0] == _OWN, form.partition(":")[2] or None
    if is_own and not tokenizer.has_chat_template:
        raise UserError(
            f"--prompt_type {name}: the tokenizer's files hold no chat_template; use chat_template: chatml, or a text"
        )

    def render(question: str, own_system: str, before: Turns = ()) -> str:
        system = own_system or turns.get("system", "")
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": role, "content": content} for role, content in before]
        messages.append({"role": "user", "content": _fill(turns["user"], question, own_system)})
        if is_own:
            text = tokenizer.apply_chat_template(messages, own_name)
        else:
            text = as_chatml(messages) + "<|im_start|>assistant\n"
        return text + turns.get("assistant", "")

    return Template(name, render, takes_system=True, render_turns=render)
