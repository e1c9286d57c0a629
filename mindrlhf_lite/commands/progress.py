"""How far something has come: a bar on a terminal; elsewhere (a log file, a pipe) a plain line now and then, for a bar
would fill it with carriage returns.
"""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

from mindrlhf_lite.files.text_file import printable, printable_text, say

# set to 1 by a program that passes on to a terminal what this one writes
TERMINAL_VARIABLE = "MINDRLHF_LITE_TERMINAL"
LINE_EVERY_S = 30.0


def ends_on_terminal(file: TextIO) -> bool:
    return file.isatty() or os.environ.get(TERMINAL_VARIABLE) == "1"


class Progress:
    """Example: with Progress(7473, "row", "tokenizing") as progress: progress.update(256)

    Args:
        total: how many there are; unit: what they are, in the singular; what: is being done.
        initial: how many were done before.
        file: where it is shown (default: stderr).
        is_shown: False: nothing is.
        says_end: the last line says how long all of it took, where lines are written.
        bar: tqdm's own options, for a terminal.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        what: str,
        initial: int = 0,
        file: TextIO | None = None,
        is_shown: bool = True,
        says_end: bool = True,
        **bar: Any,
    ):
        self.total, self.unit, self.what, self.done = total, unit, printable(what), initial
        self._file, self._says_end, self._note = file or sys.stderr, says_end, ""
        self._started = self._last_line = time.monotonic()
        self._writes_lines = is_shown and not ends_on_terminal(self._file)
        is_bar = is_shown and not self._writes_lines
        self._bar = tqdm(
            total=total, initial=initial, unit=unit, desc=self.what, disable=not is_bar, file=self._file, **bar
        )

    def update(self, count: int = 1) -> None:
        """`count` more are done."""
        self.done += count
        self._bar.update(count)
        self._maybe_line()

    def describe(self, what: str) -> None:
        """What is being done now."""
        self.what = printable(what)
        self._bar.set_description(self.what, refresh=True)
        self._maybe_line()

    def note(self, text: str) -> None:
        """Figures to show behind the count."""
        self._note = text
        self._bar.set_postfix_str(text, refresh=False)

    def say(self, text: str) -> None:
        """Lines of their own on stdout, above the bar."""
        self._bar.write(printable_text(text), file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self._bar.close()
        if self._writes_lines and self._says_end and self.done:
            self._line()
        self._writes_lines = False

    def _maybe_line(self) -> None:
        if self._writes_lines and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        minutes, seconds = divmod(round(self._last_line - self._started), 60)
        figures = f", {self._note}" if self._note else ""
        say(
            f"{self.what.rstrip()}: {self.done} of {self.total} {self.unit}s, {minutes:02d}:{seconds:02d}{figures}",
            file=self._file,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._says_end = self._says_end and error is None
        self.close()
