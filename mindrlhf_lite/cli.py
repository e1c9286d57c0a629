"""What all command-line tools share: user mistakes end in one clear message and exit code 2, never a stack trace."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

USER_ERROR = 2


def tool_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help is a module docstring: its first line, then the options, then the rest with its examples."""
    summary, _, rest = doc.partition("\n\n")
    return argparse.ArgumentParser(description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)


def fail(message: str) -> NoReturn:
    """Prints the message on stderr and ends the process with exit code 2."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)


def leave_torch_out() -> None:
    """Before transformers is imported, for its tokenizers: without this it imports torch, where that is installed (1.5 s)."""
    os.environ.setdefault("USE_TORCH", "0")


def run_tool(main: Callable[[], None], uses_torch: bool = False) -> None:
    """Runs a tool's main(); ValueError (a user's mistake) and a full or unwritable disk become messages."""
    if not uses_torch:
        leave_torch_out()
    try:
        main()
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    except KeyboardInterrupt:
        sys.exit(130)
