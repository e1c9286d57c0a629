"""Rows of the file formats that data sets come in: .jsonl, .json (a list, or lines), .csv, .parquet."""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.json_file import NotJson, parse_json
from mindrlhf_lite.files.text_file import check_is_not_utf_16

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

NumberedRow = tuple[
    int, "dict[str, Any] | ValueError"
]  # number in the file, from 1, and the row or what is wrong with it


def read_rows(path: Path) -> Iterator[NumberedRow]:
    """All rows of a file, those that cannot be read as errors.

    Raises:
        ValueError: the file as a whole cannot be read, or its kind is unknown.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file; {', '.join(SUFFIXES)} are understood")
    if kind == ".parquet":
        return _parquet_rows(path)
    with path.open("rb") as file:
        check_is_not_utf_16(path, file.read(2))
    if kind == ".csv":
        return _csv_rows(path)
    return _list_rows(path) if kind == ".json" and _starts_with_bracket(path) else _line_rows(path)


def _starts_with_bracket(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(len(BOM_UTF8))
        if start != BOM_UTF8:
            file.seek(0)
        while byte := file.read(1):
            if not byte.isspace():
                return byte == b"["
    return False


def _checked(value: Any) -> dict[str, Any] | ValueError:
    if isinstance(value, dict | ValueError):
        return value
    return ValueError(f"a JSON object is needed, not {type(value).__name__}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | ValueError:
    """A JSON object; an error in its place where a key stands twice: which of the two is meant nobody knows."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        return ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _line_rows(path: Path) -> Iterator[NumberedRow]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.removeprefix(BOM_UTF8).strip():
                continue
            try:
                yield number, _checked(parse_json(line, _object))
            except ValueError as error:
                yield number, error


def _list_rows(path: Path) -> Iterator[NumberedRow]:
    try:
        values = parse_json(path.read_bytes(), _object)
    except NotJson as error:
        raise UserError(f"{path}:{error.line}: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    for number, value in enumerate(values, 1):
        yield number, _checked(value)


def _csv_rows(path: Path) -> Iterator[NumberedRow]:
    csv.field_size_limit(1 << 30)  # solutions are longer than the module's default
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            for number, row in enumerate(csv.DictReader(file), 1):
                if None in row or None in row.values():
                    yield number, ValueError("it has more or fewer columns than the header")
                else:
                    yield number, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not a CSV file in UTF-8 ({error})") from None


def _parquet_rows(path: Path) -> Iterator[NumberedRow]:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(
            f"{path}: .parquet needs pyarrow; install it with `pip install pyarrow==19.0.0` (newer ones want NumPy 2)"
        ) from None
    try:
        file = ParquetFile(path)
    except ArrowInvalid as error:
        raise UserError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    number = 0
    try:
        for batch in file.iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged behind row {number} ({str(error).splitlines()[0]})") from None
