"""Text files are UTF-8, whatever the locale says; a byte order mark (Notepad, PowerShell, Excel write one) is passed
over. Everything here that reads or writes text does it by these functions; tests/test_text_files.py looks.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

from mindrlhf_lite.errors import UserError

ENCODING, _ENCODING_WITH_MARK = "utf-8", "utf-8-sig"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, with line ends as "\\n".

    Raises:
        UserError: it is in another encoding, and where that shows.
        OSError: it cannot be read.
    """
    data = Path(path).read_bytes()
    check_is_not_utf_16(path, data)
    try:
        text = data.decode(_ENCODING_WITH_MARK)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: not UTF-8 text (byte 0x{data[error.start]:02x} in line {line}); save it as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_is_not_utf_16(path: str | Path, start: bytes) -> None:
    """Raises UserError where a file's first bytes are the mark of UTF-16, which PowerShell's ">" writes."""
    if start.startswith(_UTF_16_MARKS):
        raise UserError(f"{path}: not UTF-8 text, but UTF-16; save it as UTF-8")


def read_log(path: str | Path) -> str:
    """The text of a file that any program may have written: what is not UTF-8 becomes U+FFFD."""
    return Path(path).read_text(encoding=_ENCODING_WITH_MARK, errors="replace")


def check_is_text(text: str, what: str) -> None:
    """Raises UserError where UTF-8 cannot hold a text: JSON may bring half a surrogate pair as "\\ud83d"."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise UserError(f"{what} holds {half}, half a surrogate pair, which is no character") from None


def check_is_name(text: str, what: str) -> None:
    """`check_is_text`, of what may name a file: the system's own functions end in a trace on a zero byte."""
    check_is_text(text, what)
    if "\0" in text:
        raise UserError(f"{what} holds a zero byte, which no name of a file may")


def open_to_write(path: str | Path, mode: str = "w") -> TextIO:
    """Modes "w" and "a". Half a surrogate pair, which UTF-8 cannot hold, is written as \\udXXX instead of an error half
    way through a run.
    """
    return open(path, mode, encoding=ENCODING, errors="backslashreplace")  # type: ignore[return-value]


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 file as a whole, in place; `write_atomically` is for files that others may be reading."""
    with open_to_write(path) as file:
        file.write(text)


def printable(text: str) -> str:
    """A text of somebody else's (an exception's, a completion's) on one line of a console or log: line ends, escape
    sequences and other control characters are written out. So it cannot look like another message, nor move the cursor.
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def printable_lines(text: str) -> str:
    """`printable`, line by line; a later line that would look like a message of its own is indented."""
    first, *others = map(printable, text.split("\n"))
    return "\n".join([first, *(f"  {line}" if line.lstrip().startswith("error:") else line for line in others)])


def let_console_show_anything() -> None:
    """What the terminal's encoding lacks is shown as \\uXXXX from now on. Without this, a completion with a character
    that GBK or ASCII lacks ends a run.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test, or a notebook, put another object there
            stream.reconfigure(errors="backslashreplace")
