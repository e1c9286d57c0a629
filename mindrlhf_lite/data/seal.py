"""What ties a MindRecord file to its index, so that both can be renamed, copied and checked without MindSpore.

MindRecord keeps the name that a file was written under in the file and in its index (an SQLite database), and its
reader opens the file of that name beside the one it was given: a renamed copy is read as whatever has the old name now.
So the reader here works on a scratch folder in which the file has its old name. `seal` adds a table to the index with
the SHA-256 of the data and of the index's own rows, and the header of the file; `check_seal` compares before
MindSpore's reader, which trusts its input, sees a byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mindrlhf_lite.errors import UserError

_TABLE = "mindrlhf_lite"
_BLOCK = 1 << 20


class BrokenSeal(ValueError):
    """A data file or its index is not what was written. The message says what to do."""


def index_of(path: Path) -> Path:
    """Where the index of a MindRecord file lies."""
    return path.with_name(path.name + ".db")


def seal(path: Path, header: dict[str, Any]) -> None:
    """Adds the table to the index of a file that has just been written."""
    values = {"data_sha256": _sha256(path), "header": json.dumps(header)}
    with closing(sqlite3.connect(index_of(path))) as index:
        values["index_sha256"] = _rows_sha256(index, values["header"])
        index.execute(f"CREATE TABLE {_TABLE} (key TEXT PRIMARY KEY, value TEXT)")
        index.executemany(f"INSERT INTO {_TABLE} VALUES (?, ?)", values.items())
        index.commit()


def check_seal(path: Path) -> dict[str, Any] | None:
    """The header of a sealed file whose bytes are those that were written; None for one that an older version wrote.

    Raises:
        BrokenSeal: the index is missing, damaged, or another file's; the data are damaged.
    """
    index_path = index_of(path)
    if not index_path.is_file():
        raise BrokenSeal(
            f"its index {index_path.name} is missing; copy or rename the two together, or convert the data again "
            "with tools/rlhf_data.py"
        )
    try:
        with closing(_open(index_path)) as index:
            _check_has_tables_only(index)
            name = _stored_name(index)
            if not index.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (_TABLE,)).fetchone():
                return None
            values = dict(index.execute(f"SELECT key, value FROM {_TABLE}").fetchall())
            index_sha256 = _rows_sha256(index, values["header"])
        header = json.loads(values["header"])
    except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
        raise BrokenSeal(
            f"its index {index_path.name} is damaged ({error}); convert the data again with tools/rlhf_data.py"
        ) from None
    if index_sha256 != values.get("index_sha256"):
        raise BrokenSeal(
            f"its index {index_path.name} is damaged (its checksum differs); convert the data again with "
            "tools/rlhf_data.py"
        )
    if _sha256(path) != values.get("data_sha256"):
        raise BrokenSeal(
            f"it is not the file that its index {index_path.name} was written for ({name}): it was cut short or "
            "changed, or the index is another file's; "
            "copy or rename the two together, or convert the data again with tools/rlhf_data.py"
        )
    return header


@contextmanager
def under_its_old_name(path: Path) -> Iterator[Path]:
    """The same file and index under the name that they were written with, in a scratch folder of links."""
    with closing(_open(index_of(path))) as index:
        name = _stored_name(index)
    with tempfile.TemporaryDirectory(prefix="mindrecord-") as folder:
        linked = Path(folder) / name
        os.symlink(path.absolute(), linked)
        os.symlink(index_of(path).absolute(), index_of(linked))
        yield linked


def _open(index_path: Path) -> sqlite3.Connection:
    index = sqlite3.connect(f"{index_path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    index.execute("PRAGMA trusted_schema = OFF")  # nothing that the file defines is run
    return index


def _check_has_tables_only(index: sqlite3.Connection) -> None:
    """Raises ValueError where the database defines a program: a view in a table's place may compute for ever."""
    for name, kind, definition in index.execute("SELECT name, type, sql FROM sqlite_master"):
        words = str(definition or "").upper()
        if kind not in ("table", "index") or words.startswith("CREATE VIRTUAL") or " AS " in words:
            raise UserError(f"{name!r} is more than a table")


def _stored_name(index: sqlite3.Connection) -> str:
    row = index.execute("SELECT NAME FROM SHARD_NAME").fetchone()
    name = "" if row is None else str(row[0])
    if not name or name != os.path.basename(name):
        raise UserError(f"it names no file: {name!r}")
    return name


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _rows_sha256(index: sqlite3.Connection, header: str) -> str:
    """Of the header and of every row of MindRecord's own tables."""
    digest = hashlib.sha256(header.encode())
    tables = index.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name != ? ORDER BY name", (_TABLE,)
    ).fetchall()
    for (table,) in tables:
        digest.update(table.encode())
        for row in index.execute(f'SELECT * FROM "{table}" ORDER BY rowid'):
            digest.update(repr(row).encode())
    return digest.hexdigest()
