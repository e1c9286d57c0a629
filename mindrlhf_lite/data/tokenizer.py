"""Text to token ids and back, through transformers' fast tokenizers (no torch needed)."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindrlhf_lite.data.tokenizer_reader import (
    NAMED_TEMPLATES,
    TOKENIZER_FILES,
    main_file,
    panics_as_errors,
    read_tokenizer,
)
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.json_file import read_json
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.shapes.token_ids import check_token_ids

_PROBE = "1+1"
_SPLITTING_PROBE = "It's 1,234.5 kg\n\n  <think>\\frac{1}{2}</think> \u4f60\u597d \u00dcbung <|im_end|>"


_TAG = re.compile(r"</?([A-Za-z][\w.:-]*)>|\[/?(THINK)\]")
# written like tags, but marks of turns and of padding, which stand for no text
_MARKS = {"s", "bos", "eos", "pad", "unk", "mask", "cls", "sep", "eod", "eot", "eos_token", "bos_token", "pad_token"}
_MARKS |= {"start_of_turn", "end_of_turn", "end_of_utterance", "end_of_text", "start_of_text", "unused", "blank"}


def _is_tag(text: str) -> bool:
    found = _TAG.fullmatch(text)
    return found is not None and (found[1] or "").lower().rstrip("0123456789") not in _MARKS


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
        self._tokenizer = read_tokenizer(tokenizer_dir, vocab_path, merges_path)
        self._file = vocab_path if tokenizer_dir is None else main_file(Path(tokenizer_dir))
        with_special = self._tokenizer(_PROBE)["input_ids"]
        plain = self._tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
        self._begin: list[int] = next(
            (with_special[:start] for start in range(len(with_special)) if with_special[start:][: len(plain)] == plain),
            [],
        )  # what the tokenizer puts before every text by itself: Llama's <|begin_of_text|>, nothing for Qwen
        self._silent = self._unseen_ids(tokenizer_dir)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text as the beginning of a sequence, that is of a prompt: with the token before it that the
        tokenizer adds by itself (BOS), once, also where a template has written it already. Special tokens written in
        the text (as <|im_end|>) are recognised; nothing is added behind it.
        """
        begin = self._begin
        return [ids if ids[: len(begin)] == begin else [*begin, *ids] for ids in self.encode_continuation_batch(texts)]

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_continuation_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text as what follows other text, that is of a completion: nothing is added."""
        with panics_as_errors(self._file):
            return self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    def encode_continuation(self, text: str) -> list[int]:
        return self.encode_continuation_batch([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens, but with tags such as <think> and </answer>, also where they are special tokens:
        verifiers look for them.
        """
        seen = [token for token in ids if token not in self._silent]
        with panics_as_errors(self._file):
            return self._tokenizer.decode(seen, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _unseen_ids(self, folder: str | None) -> frozenset[int]:
        """Special tokens that are no text: those with a role, the model's end tokens, and all that look like no tag."""
        own = self._tokenizer
        added = {token: str(entry.content) for token, entry in own.added_tokens_decoder.items() if entry.special}
        special = added | dict(zip(own.all_special_ids, own.all_special_tokens, strict=True))
        roles = {own.bos_token_id, own.eos_token_id, own.pad_token_id, own.unk_token_id, *self._begin}
        roles |= {own.cls_token_id, own.sep_token_id, own.mask_token_id}
        ends = set() if folder is None else set(_end_ids_of_model(Path(folder)) or ())
        return frozenset(token for token, text in special.items() if token in roles | ends or not _is_tag(text))

    @property
    def has_chat_template(self) -> bool:
        return bool(self._tokenizer.chat_template)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        name: str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        begins_answer: bool = True,
    ) -> str:
        """The prompt that the tokenizer's chat template makes of messages {"role", "content"}, up to where the answer
        starts.

        Args: name: of several named templates; None: the only one, or the one named default; tools: their JSON schemas;
        begins_answer: whether the prompt ends with the beginning of an answer.

        Raises:
            ValueError: the template refuses the messages or fails, there is none of this name, or none is the default.
        """
        templates = self._tokenizer.chat_template
        named = templates if isinstance(templates, dict) else {"default": templates}
        if (name or "default") not in named:
            wanted = f"none is called {name!r}" if name else "none of them is the default"
            raise UserError(
                f"the tokenizer has the chat templates {', '.join(sorted(named))}; {wanted}; choose one by "
                "--prompt_type chat:NAME"
            )
        try:
            return self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                chat_template=named[name or "default"],
                tokenize=False,
                add_generation_prompt=begins_answer,
            )
        except Exception as error:  # a template is a program of others: it may raise anything
            said = " ".join(str(error).split())[:300]
            raise UserError(f"the tokenizer's chat template fails: {said or type(error).__name__}") from None

    def fingerprint(self) -> str:
        """SHA-256 of every token with its id, and of the ids of a text that the way of splitting shows in."""
        digest = hashlib.sha256(json.dumps(sorted(self._tokenizer.get_vocab().items())).encode())
        digest.update(json.dumps(self.encode(_SPLITTING_PROBE)).encode())
        return digest.hexdigest()

    @property
    def vocabulary(self) -> dict[int, str]:
        """Every id's token."""
        return {token: text for text, token in self._tokenizer.get_vocab().items()}

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return len(self._tokenizer)

    @property
    def num_ordinary(self) -> int:
        """One more than the largest id that text without special or added tokens can have."""
        added = self._tokenizer.added_tokens_decoder
        return 1 + max((token for token in self._tokenizer.get_vocab().values() if token not in added), default=-1)

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
    found = _end_ids_of_model(Path(model_dir))
    if found is not None:
        return found
    return () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)


def _end_ids_of_model(folder: Path) -> tuple[int, ...] | None:
    """eos_token_id of generation_config.json, else of config.json; None where neither says."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        values = read_json(path) if path.is_file() else {}
        check_token_ids(values, str(path))
        if (found := values.get("eos_token_id")) is not None:
            return tuple(found) if isinstance(found, list) else (found,)
    return None


TOKENIZER_FOLDER = "tokenizer"  # in a checkpoint of a run, beside its files


def copy_tokenizer(source: str | Path, destination: str | Path) -> bool:
    """Copies what a Hugging Face folder, or a run's checkpoint, has besides weights and config.json. Returns whether a
    tokenizer was among it.
    """
    folder = Path(source) / TOKENIZER_FOLDER if (Path(source) / TOKENIZER_FOLDER).is_dir() else Path(source)
    for name in _BESIDE_THE_WEIGHTS:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, Path(destination) / name)
    if (folder / NAMED_TEMPLATES).is_dir():
        shutil.copytree(folder / NAMED_TEMPLATES, Path(destination) / NAMED_TEMPLATES, dirs_exist_ok=True)
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def copy_first_tokenizer(sources: Sequence[str | None], destination: str | Path) -> None:
    """`copy_tokenizer` of the first source that has one; says so if none has."""
    if not any(copy_tokenizer(source, destination) for source in sources if source):
        say(
            f"note: no tokenizer beside {' or '.join(source for source in sources if source)}: copy the model's "
            f"tokenizer files into {destination}"
        )
