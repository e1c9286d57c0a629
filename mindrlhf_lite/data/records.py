"""MindRecord files of prompts: writing (all or nothing) and reading.

A row: prompt_ids int32 (padded on the right if a pad id was given), prompt_length, text, gold, row, source, columns.
Masks never come from the pad id: the true length is its own column. The first row is a header: prompt_length 0, and
JSON in `text`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from mindrlhf_lite.data.files import SUFFIXES
from mindrlhf_lite.data.rows import read_rows, text_of, write_rows
from mindrlhf_lite.data.seal import BrokenSeal, check_seal
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.types import Prompt

_SCHEMA = {
    "prompt_ids": {"type": "int32", "shape": [-1]},
    "prompt_length": {"type": "int32"},
    "text": {"type": "string"},
    "gold": {"type": "string"},
    "row": {"type": "int32"},
    "source": {"type": "string"},
    "columns": {"type": "string"},  # JSON object; files of older versions lack it
}
_HEADER = "mindrlhf_lite header"


@dataclass(frozen=True)
class Padding:
    """Example: Padding(token_id=151643, length=512)"""

    token_id: int
    length: int


@dataclass(frozen=True)
class Header:
    """What a file's prompts were made with.

    Example: Header("Qwen2.5-0.5B", "9f3c...", "qwen_r1", {"gsm8k": 7473}, 312)
    """

    tokenizer: str = ""  # folder or file, for messages
    tokenizer_sha256: str = ""  # Tokenizer.fingerprint; empty: unknown
    template: str = ""
    counts: dict[str, int] = field(default_factory=dict)  # rows by source
    longest: int = 0  # tokens of the longest prompt
    largest_id: int = -1  # of all prompts' tokens; -1: unknown

    def check(self, tokenizer: Tokenizer, name: str, path: str | Path) -> None:
        """Raises ValueError if the prompts were made with another tokenizer."""
        if self.tokenizer_sha256 and self.tokenizer_sha256 != tokenizer.fingerprint():
            raise UserError(
                f"dataset_file {path}: its prompts were tokenized with {self.tokenizer}, whose tokens differ "
                f"from those of {name}; "
                f"convert the data with `tools/rlhf_data.py --tokenizer_dir {name}`"
            )


def write_prompts(
    path: str | Path, prompts: Sequence[Prompt], padding: Padding | None = None, header: Header | None = None
) -> None:
    """Writes PATH and its index PATH.db; nothing is left behind if writing fails."""
    path, header = Path(path), header or Header()
    rows = (_as_row(prompt, padding) for prompt in (_as_prompt_row(header), *prompts))
    write_rows(path, _SCHEMA, "prompts", rows, asdict(header))


def _as_prompt_row(header: Header) -> Prompt:
    return Prompt(0, (), json.dumps({_HEADER: asdict(header)}), "", 0, _HEADER)


def _as_row(prompt: Prompt, padding: Padding | None) -> dict:
    ids = np.array(prompt.ids or (0,), np.int32)  # an empty array cannot be written
    if padding is not None:
        ids = np.pad(ids, (0, padding.length - len(ids)), constant_values=padding.token_id)
    columns = json.dumps(dict(prompt.columns), ensure_ascii=False)
    texts = {"text": prompt.text, "gold": prompt.gold, "source": prompt.source, "columns": columns}
    return {"prompt_ids": ids, "prompt_length": len(prompt.ids), "row": prompt.row, **texts}


def read_prompts(path: str | Path) -> list[Prompt]:
    """All rows of a file that `write_prompts` wrote."""
    return read_file(path)[1]


def read_file(path: str | Path) -> tuple[Header, list[Prompt]]:
    """Header and rows of a file that `write_prompts` wrote.

    Raises:
        ValueError: the file is missing, damaged, empty, or of another kind.
    """
    path = Path(path)
    read_header(path)
    rows = [_as_prompt(index - 1, row, path) for index, row in enumerate(read_rows(path, "dataset_file"))]
    if not rows or rows[0].source != _HEADER:
        raise UserError(
            f"dataset_file {path}: its first row is not a header; convert the data with this version's "
            "tools/rlhf_data.py"
        )
    if len(rows) == 1:
        raise UserError(f"dataset_file {path}: it has no rows")
    try:
        return _header(json.loads(rows[0].text)[_HEADER]), rows[1:]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"dataset_file {path}: its header is damaged ({error!r}); convert the data again") from None


def read_header(path: str | Path) -> Header | None:
    """The header of a whole, undamaged file, without MindSpore; None where an older version wrote the file.

    Raises:
        ValueError: the file is missing, damaged, or not what its index was written for; the message says what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"dataset_file {path}: no such file; make one with tools/rlhf_data.py")
    if path.suffix.lower() in SUFFIXES:
        raise UserError(
            f"dataset_file {path}: a MindRecord file is needed; convert it with `tools/rlhf_data.py --file_path {path}`"
        )
    try:
        values = check_seal(path)
    except BrokenSeal as error:
        raise UserError(f"dataset_file {path}: {error}") from None
    if values is None:
        return None
    try:
        return _header(values)
    except (TypeError, ValueError):
        raise UserError(
            f"dataset_file {path}: another version wrote it; convert the data again with this version's "
            "tools/rlhf_data.py"
        ) from None


def _header(values: dict) -> Header:
    """Raises TypeError or ValueError where the values are no header's."""
    header = Header(**values)
    texts = (header.tokenizer, header.tokenizer_sha256, header.template, *header.counts)
    counts = (header.longest, header.largest_id, *dict(header.counts).values())
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(count, int) for count in counts):
        raise TypeError("a text and a number are mixed up")
    return header


def _as_prompt(index: int, row: dict, path: Path) -> Prompt:
    missing = [name for name in _SCHEMA if name not in row and name != "columns"]
    if missing:
        raise UserError(
            f"dataset_file {path}: rows lack {', '.join(missing)}; convert the data with this version's "
            "tools/rlhf_data.py"
        )
    texts = (row[name] for name in ("text", "gold", "source"))
    text, gold, source = map(text_of, texts)
    ids = tuple(int(token) for token in row["prompt_ids"][: int(row["prompt_length"])])
    columns = json.loads(text_of(row["columns"])) if "columns" in row else {}
    return Prompt(index, ids, text, gold, int(row["row"]), source, columns)
