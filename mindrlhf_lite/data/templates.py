"""Prompt templates, read from templates.yaml beside this file or from a user's YAML of the same form."""

from __future__ import annotations

from pathlib import Path

import yaml

_BUILT_IN = Path(__file__).with_name("templates.yaml")
_SLOT = "{question}"


def load_template(name: str) -> str:
    """The template called `name`, or the one in a YAML file given as FILE.yaml:NAME.

    Raises:
        ValueError: no such template, or one that loses the question.
    """
    path, _, key = name.rpartition(":")
    source = Path(path) if path else _BUILT_IN
    if not source.is_file():
        raise ValueError(f"--prompt_type {name}: no file {source}")
    try:
        templates = yaml.safe_load(source.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"--prompt_type {name}: {source} is not valid YAML ({error})") from None
    if not isinstance(templates, dict) or not all(isinstance(text, str) for text in templates.values()):
        raise ValueError(f"--prompt_type {name}: {source} must map names to texts")
    if key not in templates:
        raise ValueError(f"--prompt_type {name}: unknown; known: {', '.join(templates)}")
    # an assistant turn starts after the newline that YAML cannot keep at the end of a block
    template = templates[key] + ("\n" if templates[key].endswith("<|im_start|>assistant") else "")
    if template.count(_SLOT) != 1:
        raise ValueError(f"--prompt_type {name}: the template must hold {_SLOT} exactly once")
    return template


def render(template: str, question: str) -> str:
    """Puts the question in; braces elsewhere (as in \\boxed{}) stay."""
    return template.replace(_SLOT, question)
