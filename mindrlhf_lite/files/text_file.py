"""Text files are UTF-8, whatever the locale says; a byte order mark (Notepad, PowerShell, Excel write one) is passed
over. Everything here that reads or writes text does it by these functions; tests/test_text_files.py looks.
"""

from __future__ import annotations

import re
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


# what a rank says last begins so, and ends the job in place of the guard's own words (job/verdict.py)
_LAST_WORDS = re.compile(r"error: (?=rank )")
_OWN_START = re.compile(r"(error: )?(rank \d+: )?")


def printable(text: str) -> str:
    """A text of somebody else's (an exception's, a completion's, a file's name) on one line of a console or log: line
    ends, escape sequences and other control characters are written out. So it cannot look like another message, nor
    move the cursor.
    """
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return _LAST_WORDS.sub("error\\\\x3a ", shown)


def printable_lines(text: str) -> str:
    """`printable`, line by line; a later line that would look like a message of its own is indented. The first may be
    one.
    """
    first, *others = text.split("\n")
    start = _OWN_START.match(first)[0]  # type: ignore[index]  # it matches the empty text
    return "\n".join([start + printable(first[len(start) :]), *map(_no_message, others)])


def _no_message(line: str) -> str:
    shown = printable(line)
    return f"  {shown}" if shown.lstrip().startswith("error:") else shown


def printable_text(text: str) -> str:
    """`printable`, line by line, of what is no message of ours: no line looks like one."""
    return "\n".join(map(_no_message, text.split("\n")))


def say(*lines: object, file: TextIO | None = None) -> None:
    """Prints what may hold text of others, such as completions and names of files. Args: file: None: stdout."""
    print(*(printable_text(str(line)) for line in lines), sep="\n", file=file, flush=True)


def let_console_show_anything() -> None:
    """What the terminal's encoding lacks is shown as \\uXXXX from now on. Without this, a completion with a character
    that GBK or ASCII lacks ends a run.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test, or a notebook, put another object there
            stream.reconfigure(errors="backslashreplace")
