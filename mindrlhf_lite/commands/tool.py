"""What all commands share: user mistakes end in one clear message and exit code 2, never a stack trace; the frameworks
keep quiet.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from mindrlhf_lite.commands.signals import Ended, announce, end_on_signals
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import let_console_show_anything, printable_lines

FAILED, USER_ERROR = 1, 2  # exit codes
_SHOWN = 40  # characters of what was typed
_NEEDED = ("mindspore", "numpy", "yaml", "tokenizers", "transformers", "safetensors", "jinja2", "tqdm")
# what the frameworks would say to people who look at the results of a tool; what is set already stays
_QUIET = {
    "GLOG_v": "3",  # MindSpore: errors only
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number from `least` to `most`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:  # also of thousands of digits
            value = None
        if value is None or value < least or (most is not None and value > most):
            reach = f"from {least} on" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{_shortened(text)}: a whole number {reach} is needed")
        return value

    return read


def real_number(least: float = 0.0, most: float = math.inf, may_be_least: bool = True) -> Callable[[str], float]:
    """An argparse type: a finite number from `least` (or above it) to `most`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not least <= value <= most or (value == least and not may_be_least):
            reach = f"{'from' if may_be_least else 'above'} {least:g}" + (f" to {most:g}" if most < math.inf else "")
            raise argparse.ArgumentTypeError(f"{_shortened(text)}: a number {reach} is needed")
        return value

    return read


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


# numbers that every tool reads alike
_INT32 = 2**31 - 1
COUNT = whole_number(1, _INT32)
COUNT_OR_NONE = whole_number(0, _INT32)  # 0: all, or none
TOKEN_ID = whole_number(0, _INT32)
ADAPTER_HELP = "folder of adapters beside the model (peft's, or OUTPUT/hf/adapter); they are merged into it"
SEED = whole_number(0, 2**63 - 1)
DIGIT_COUNT = whole_number(1, 4)  # sums of more digits would be too many to shuffle
POSITIVE_NUMBER = real_number(may_be_least=False)
NOT_NEGATIVE_NUMBER = real_number()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        given = [word for word in message.split() if word.startswith("-")]
        near = nearest_flag(given, self._option_string_actions) if message.startswith("unrecognized") else ""
        fail(message + (f"; did you mean {near}?" if near else "") + " (--help lists the options)")


def nearest_flag(given: Iterable[str], known: Iterable[str]) -> str:
    """The flag among `known` that the first of `given` that is near one was meant to be; empty if none is. Dashes and
    underscores are the same.
    """
    by_name = {name.lstrip("-").replace("-", "_"): name for name in known if name.startswith("--")}
    for flag in given:
        name = flag.partition("=")[0].lstrip("-").replace("-", "_")
        if close := difflib.get_close_matches(name, by_name, 1, 0.75):
            return by_name[close[0]]
    return ""


def tool_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help is a module docstring: its first line, then the options, then the rest with its examples."""
    summary, _, rest = doc.partition("\n\n")
    return _Parser(description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)


def fail(message: str) -> NoReturn:
    """Prints the message on stderr and ends the process with exit code 2."""
    print(f"error: {printable_lines(message)}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)


def prepare_process() -> None:
    """Before anything heavy is imported: lets the console show any text, says which environment to activate where this
    Python lacks what is needed, and quiets the frameworks.
    """
    let_console_show_anything()
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        fail(
            f"{sys.executable} has no {', '.join(missing)}: activate the project's environment first, `source "
            ".venv/bin/activate` (`bash build.sh` makes it)"
        )
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def leave_torch_out() -> None:
    """Before transformers is imported, for its tokenizers: without this it imports torch, where that is installed (1.5
    s).
    """
    os.environ.setdefault("USE_TORCH", "0")


def run_tool(main: Callable[[], None], uses_torch: bool = False) -> None:
    """Runs a tool's main(); a UserError and a full or unwritable disk become messages."""
    let_console_show_anything()
    if not {"-h", "--help"} & set(sys.argv[1:]):
        prepare_process()
        end_on_signals()
    if not uses_torch:
        leave_torch_out()
    try:
        _with_messages(main)
    except SystemExit as end:
        if not isinstance(end.code, str):  # which the interpreter prints yet
            _hush()
        raise
    _hush()


def _with_messages(main: Callable[[], None]) -> None:
    try:
        main()
    except Ended as ended:
        announce(ended.args[0])
        sys.exit(128 + ended.args[0])
    except UserError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename}" if error.filename else error.strerror or str(error))


def _hush() -> None:
    """What libraries find leaked while the interpreter ends is nothing that a user can mend."""
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except OSError:  # a closed pipe, a full disk: the interpreter says so
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
