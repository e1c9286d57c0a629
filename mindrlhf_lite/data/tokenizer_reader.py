"""transformers' tokenizer of a folder, whichever version of transformers saved it; code in the folder is never run.

transformers' own reader comes first. Where it fails and tokenizer.json is whole (a class that only transformers 5 has,
a class that is code in the folder, `extra_special_tokens` as a list), the tokenizer is made of tokenizer.json, and of
the special tokens and chat templates beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.json_file import read_json
from mindrlhf_lite.files.text_file import read_text

TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
NAMED_TEMPLATES = "additional_chat_templates"  # a folder of NAME.jinja, as transformers writes it
_PROBES = ("1+1", "It's 1,234.5 kg\n\n <think>\u4f60\u597d \u00dcbung</think>")
_CONFIG, _SPECIAL, _TEMPLATE = "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_KEPT = (*_ROLES, "additional_special_tokens", "chat_template", "clean_up_tokenization_spaces", "model_max_length")


def read_tokenizer(tokenizer_dir: str | None, vocab_path: str | None = None, merges_path: str | None = None) -> Any:
    """A PreTrainedTokenizerFast; arguments as of `Tokenizer`.

    Raises:
        UserError: files are missing, or cannot be read, and why.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if tokenizer_dir is not None:
        return _of_folder(Path(tokenizer_dir))
    for flag, path in (("--vocab_path", vocab_path), ("--merges_file_path", merges_path)):
        if path is None or not Path(path).is_file():
            raise UserError(f"{flag} {path}: no such file")
    from transformers import Qwen2TokenizerFast

    try:
        with panics_as_errors(vocab_path):
            return _tried(Qwen2TokenizerFast(vocab_file=vocab_path, merges_file=merges_path))
    except Exception as error:  # the library raises many kinds on broken files
        raise UserError(f"cannot read the tokenizer of {vocab_path}: {_line(error)}") from None


@contextmanager
def panics_as_errors(file: str | Path | None) -> Iterator[None]:
    """Turns a panic of the Rust library, which is no Exception, into a UserError. Args: file: that it was made of."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3 lets nobody import the class
            raise
        raise UserError(f"{file} makes the tokenizers library panic ({_line(error)}); save it anew") from None


def main_file(folder: Path) -> Path:
    """The file that a folder's tokenizer is made of."""
    return next((folder / name for name in TOKENIZER_FILES if (folder / name).is_file()), folder)


def _of_folder(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"tokenizer_dir {folder}: neither tokenizer.json nor vocab.json there")
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        with panics_as_errors(main_file(folder)):
            found = _tried(AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False))
    except Exception as error:  # the library raises many kinds on broken files
        problem = error
    else:
        if isinstance(found, PreTrainedTokenizerFast):
            return found
        problem = ValueError(f"{type(found).__name__} is no fast tokenizer; save it with tokenizer.json")
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"cannot read the tokenizer of {folder}: {_own_code(folder) or _line(problem)}")
    try:
        with panics_as_errors(main_file(folder)):
            return _of_tokenizer_json(folder)
    except UserError as error:
        raise UserError(f"cannot read the tokenizer of {folder}: {error}") from None
    except Exception:  # as above; what the library said first is nearer to what the folder's files say
        raise UserError(f"cannot read the tokenizer of {folder}: {_line(problem)}") from None


def _of_tokenizer_json(folder: Path) -> Any:
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    backend = Backend.from_str(read_text(folder / "tokenizer.json"))
    values = {**_values(folder / _SPECIAL), **_values(folder / _CONFIG)}
    settings = {name: _token(values[name]) for name in _KEPT if values.get(name) is not None}
    more = values.get("extra_special_tokens") or []
    settings["additional_special_tokens"] = [
        *settings.get("additional_special_tokens", []),
        *(_token(token) for token in (more.values() if isinstance(more, dict) else more)),
    ]
    settings.setdefault("clean_up_tokenization_spaces", False)
    if templates := _chat_templates(folder, settings.get("chat_template")):
        settings["chat_template"] = templates
    return _tried(PreTrainedTokenizerFast(tokenizer_object=backend, **settings))


def _tried(tokenizer: Any) -> Any:
    """The tokenizer, after its first calls: not before them do settings of a wrong type (model_max_length) show, nor
    special tokens that the vocabulary lacks.
    """
    for text in _PROBES:
        tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=False)
    return tokenizer


def _values(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _token(value: Any) -> Any:
    """A special token as transformers wants it: a text, or an AddedToken where the file gives its properties."""
    if isinstance(value, list):
        return [_token(item) for item in value]
    if isinstance(value, dict) and "content" in value:
        from tokenizers import AddedToken

        names = ("content", "lstrip", "rstrip", "single_word", "normalized")
        return AddedToken(**{name: value[name] for name in names if name in value}, special=True)
    return value


def _chat_templates(folder: Path, in_config: Any) -> str | dict[str, str] | None:
    """One template, or several by name."""
    if isinstance(in_config, list):
        in_config = {item["name"]: item["template"] for item in in_config}
    templates = dict(in_config) if isinstance(in_config, dict) else {"default": in_config} if in_config else {}
    if (folder / _TEMPLATE).is_file():
        templates["default"] = read_text(folder / _TEMPLATE)
    for path in sorted((folder / NAMED_TEMPLATES).glob("*.jinja")):
        templates[path.stem] = read_text(path)
    return templates["default"] if templates.keys() == {"default"} else templates or None


def _own_code(folder: Path) -> str:
    """In words, where the folder's tokenizer is a program of its own; else empty."""
    if "auto_map" not in _values(folder / _CONFIG):
        return ""
    return f"{_CONFIG} names code of the folder (auto_map), which is never run; save the tokenizer with tokenizer.json"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
