"""A metrics.jsonl that is read while a run writes it, and rewrites it when it is resumed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.json_file import parse_json
from mindrlhf_lite.observe.run_files import check_metrics

_CHUNK = 8 << 20  # bytes
_LONGEST_LINE = 16 << 20


class Tail:
    """New rows of a file each time it is asked; half a line waits for its end.

    Attributes: damage: the first line that is no row of metrics, in words; "": none.
    """

    def __init__(self, path: Path):
        self.path, self.damage = path, ""
        self._file, self._offset, self._line, self._rest = (0, 0), 0, 0, b""

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """(whether all rows before are void, because the file is another one now; the new rows)."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO is not waited for
        except OSError:
            return self._begin((0, 0)), []
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                return self._begin((0, 0)), []
            is_other = (found.st_dev, found.st_ino) != self._file or found.st_size < self._offset
            is_void = self._begin((found.st_dev, found.st_ino)) if is_other else False
            rows: list[dict[str, Any]] = []
            while data := os.pread(handle, _CHUNK, self._offset):
                self._offset += len(data)
                rows += self._rows(data)
            return is_void, rows
        finally:
            os.close(handle)

    def _begin(self, file: tuple[int, int]) -> bool:
        """From the start of a file. Returns whether something had been read."""
        had_rows = self._offset > 0
        self.damage, self._file, self._offset, self._line, self._rest = "", file, 0, 0, b""
        return had_rows

    def _rows(self, data: bytes) -> list[dict[str, Any]]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            self._note(f"{self.path}:{self._line + 1}: a line of more than {_LONGEST_LINE} bytes")
            self._rest = b""
        rows = []
        for line in lines:
            self._line += 1
            try:
                rows.append(check_metrics(parse_json(line), f"{self.path}:{self._line}"))
            except UserError as error:
                self._note(str(error))
            except ValueError as error:
                self._note(f"{self.path}:{self._line}: {error}")
        return rows

    def _note(self, damage: str) -> None:
        self.damage = self.damage or damage
