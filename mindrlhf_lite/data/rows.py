"""Rows of a MindRecord file: writing (all or nothing) and reading, whatever they hold."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mindrlhf_lite.data.seal import index_of, seal, under_its_old_name
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.durable import place, why_not_a_folder

_WRITE_BATCH = 1024
_REFUSED_TEXT = "\\ / : * ? \" < > | ` & ; '"  # mindspore.mindrecord's check_filename
_REFUSED = frozenset(_REFUSED_TEXT.replace(" ", ""))
_LONGEST_NAME = 255 - len(".db-journal")  # a file's name in bytes, on Linux
_FULL_BYTES = 1 << 20  # a disk with less left is why writing failed


def output_problem(path: str | Path) -> str:
    """Why no MindRecord file of this name can be written, to be asked before there are rows; empty: it can."""
    name = Path(path).name
    if Path(path).is_dir() or not name:
        return "it is a folder; give the name of a file"
    if refused := sorted(set(name) & _REFUSED):
        return f"MindRecord takes no {' '.join(refused)} in a file's name; its name may hold none of {_REFUSED_TEXT}"
    if name != name.strip(" "):
        return "MindRecord takes no name that begins or ends with a space"
    try:
        length = len(str(path).encode()) and len(name.encode())
    except UnicodeEncodeError:
        return "MindRecord takes no path that is not UTF-8"
    if length > _LONGEST_NAME:
        return f"its name has {length} bytes, and MindRecord's index needs one of at most {_LONGEST_NAME}"
    reason = why_not_a_folder(Path(path).parent)
    return f"{Path(path).parent}: {reason}" if reason else ""


def write_rows(path: Path, schema: Mapping[str, Any], name: str, rows: Iterable[dict], header: dict[str, Any]) -> None:
    """Writes PATH and its index PATH.db; nothing is left behind if writing fails.

    Args: schema, name: of MindRecord; header: kept in the index (`seal`).
    """
    from mindspore.mindrecord import FileWriter

    if problem := output_problem(path):
        raise UserError(f"{path}: {problem}")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=".mindrecord-", dir=path.parent)
    written = Path(scratch) / path.name
    try:
        writer = FileWriter(str(written), shard_num=1, overwrite=True)
        writer.add_schema(schema, name)
        for batch in _batches(rows):
            writer.write_raw_data(batch)
        writer.commit()
        for file in (index_of(written), written):
            os.chmod(file, 0o644)  # the library makes them readable by their owner only
        seal(written, header)
        for file in (index_of(written), written):
            place(file, path.parent / file.name)
    except (
        RuntimeError,
        sqlite3.Error,
    ) as error:  # the native writer reports a full disk as a block of its own source lines
        free = shutil.disk_usage(path.parent).free
        if free > _FULL_BYTES:
            raise
        raise OSError(
            errno.ENOSPC, f"no room to write {path}: {free >> 10:,} KiB were left on its disk; nothing was written"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _batches(rows: Iterable[dict]) -> Iterator[list[dict]]:
    left = iter(rows)
    while batch := list(islice(left, _WRITE_BATCH)):
        yield batch


def read_rows(path: Path, what: str) -> list[dict]:
    """All rows of a file. Args: what: it is called in errors.

    Raises:
        ValueError: it cannot be read.
    """
    from mindspore.mindrecord import FileReader

    try:
        with under_its_old_name(path) as linked:
            reader = FileReader(str(linked))
            rows = list(reader.get_next())
            reader.close()
    except Exception as error:  # the native reader raises several kinds on damaged files
        raise UserError(f"{what} {path}: cannot be read as MindRecord ({str(error).splitlines()[0]})") from None
    return rows


def text_of(value: Any) -> str:
    """A text column as the reader gives it."""
    return value if isinstance(value, str) else bytes(value).decode()
