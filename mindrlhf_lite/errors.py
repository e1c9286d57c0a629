"""What commands tell people from faults of the program."""

from __future__ import annotations

import reprlib
from typing import Any

_SHOWN = 200  # characters of a value in a message


class UserError(ValueError):
    """A mistake in what the user gave: settings, data, files. Its message says what, and how to mend it.

    Commands print it without a stack trace and end with exit code 2. Any other ValueError is a fault of the program.
    """


def short_repr(value: Any, most: int = _SHOWN) -> str:
    """`repr` for messages. A value of a file can be long, or repeat a long text often: at most so much is written out.

    Args: most: characters before the "...".
    """
    writer = reprlib.Repr()
    writer.maxlist = writer.maxdict = writer.maxtuple = writer.maxset = writer.maxfrozenset = 20
    writer.maxstring = writer.maxlong = writer.maxother = _SHOWN
    text = writer.repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
