"""The tokenizer of a Qwen2-style folder, through transformers' fast tokenizers (no torch needed)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.json_file import read_json

_FILES = ("tokenizer.json", "vocab.json")
_SPLITTING_PROBE = "It's 1,234.5 kg\n\n  <think>\\frac{1}{2}</think> \u4f60\u597d \u00dcbung <|im_end|>"


class Tokenizer:
    """Text to ids and back.

    Args:
        tokenizer_dir: a folder with tokenizer.json or vocab.json + merges.txt, and tokenizer_config.json if there is
            one.
        vocab_path, merges_path: the two files instead of a folder.

    Raises:
        ValueError: files are missing or unreadable.
    """

    def __init__(self, tokenizer_dir: str | None = None, vocab_path: str | None = None, merges_path: str | None = None):
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        if tokenizer_dir is not None:
            folder = Path(tokenizer_dir)
            if not any((folder / name).is_file() for name in _FILES):
                raise UserError(f"tokenizer_dir {tokenizer_dir}: neither tokenizer.json nor vocab.json there")
        else:
            for flag, path in (("--vocab_path", vocab_path), ("--merges_file_path", merges_path)):
                if path is None or not Path(path).is_file():
                    raise UserError(f"{flag} {path}: no such file")
        from transformers import AutoTokenizer, Qwen2TokenizerFast

        try:
            if tokenizer_dir is not None:
                self._tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True)
            else:
                self._tokenizer = Qwen2TokenizerFast(vocab_file=vocab_path, merges_file=merges_path)
        except Exception as error:  # the library raises many kinds on broken files
            raise UserError(f"cannot read the tokenizer of {tokenizer_dir or vocab_path}: {error}") from None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; special tokens written in the text (as <|im_end|>) are recognised, none are added."""
        return self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    @property
    def has_chat_template(self) -> bool:
        return bool(self._tokenizer.chat_template)

    def apply_chat_template(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt that the tokenizer's chat template makes of messages {"role", "content"}, up to where the answer
        starts.

        Raises:
            ValueError: the template refuses the messages.
        """
        from jinja2 import TemplateError

        try:
            return self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise UserError(f"the tokenizer's chat template: {error}") from None

    def fingerprint(self) -> str:
        """SHA-256 of every token with its id, and of the ids of a text that the way of splitting shows in."""
        digest = hashlib.sha256(json.dumps(sorted(self._tokenizer.get_vocab().items())).encode())
        digest.update(json.dumps(self.encode(_SPLITTING_PROBE)).encode())
        return digest.hexdigest()

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return len(self._tokenizer)

    @property
    def eos_token_id(self) -> int | None:
        return self._tokenizer.eos_token_id

    @property
    def pad_token_id(self) -> int | None:
        return self._tokenizer.pad_token_id

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer's files in Hugging Face format.

        Raises:
            OSError: they cannot be written.
        """
        try:
            self._tokenizer.save_pretrained(str(folder))
        except Exception as error:  # the native writer reports a full disk as a plain Exception
            raise OSError(f"cannot write the tokenizer into {folder}: {error}") from None


_BESIDE_THE_WEIGHTS = (
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
        "special_tokens_map.json",
        "added_tokens.json",
    ),
    *("chat_template.jinja", "generation_config.json"),
)


def stop_token_ids(model_dir: str | Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end a completion: eos_token_id of generation_config.json, else of config.json, else the
    tokenizer's.
    """
    for name in ("generation_config.json", "config.json"):
        path = Path(model_dir) / name
        found = read_json(path).get("eos_token_id") if path.is_file() else None
        if found is not None:
            return tuple(found) if isinstance(found, list) else (found,)
    return () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)


TOKENIZER_FOLDER = "tokenizer"  # in a checkpoint of a run, beside its files


def copy_tokenizer(source: str | Path, destination: str | Path) -> bool:
    """Copies what a Hugging Face folder, or a run's checkpoint, has besides weights and config.json. Returns whether a
    tokenizer was among it.
    """
    folder = Path(source) / TOKENIZER_FOLDER if (Path(source) / TOKENIZER_FOLDER).is_dir() else Path(source)
    for name in _BESIDE_THE_WEIGHTS:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, Path(destination) / name)
    return any((folder / name).is_file() for name in _FILES)


def copy_first_tokenizer(sources: Sequence[str | None], destination: str | Path) -> None:
    """`copy_tokenizer` of the first source that has one; says so if none has."""
    if not any(copy_tokenizer(source, destination) for source in sources if source):
        print(
            f"note: no tokenizer beside {' or '.join(source for source in sources if source)}: copy the model's "
            f"tokenizer files into {destination}"
        )
