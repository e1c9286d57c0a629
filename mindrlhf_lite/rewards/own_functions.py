"""Functions of a user's own, by name: `FILE.py:function`, or the dotted path of one that Python can import.

Files are looked for in the current folder and, where one of the scripts in examples/ has left it, in the folder that
the script was called from. Both are at the end of Python's path too: after its own modules, which they so cannot hide.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from mindrlhf_lite.errors import UserError

CALLED_FROM_VARIABLE = "MINDRLHF_CALLED_FROM"


def places() -> list[str]:
    """The folders that functions of a user's own are looked for in."""
    return list(dict.fromkeys(filter(None, [os.getcwd(), os.environ.get(CALLED_FROM_VARIABLE, "")])))


def find_function(name: str, what: str) -> Callable[..., Any]:
    """The function that a name stands for. Args: what: of it in messages, such as "verifier".

    Raises:
        ValueError: there is none; it says where it was looked for, or how its module failed.
    """
    file, _, function = name.rpartition(":")
    module_name, _, attribute = name.rpartition(".")
    if file.endswith(".py"):
        attribute = function
    elif not module_name:
        raise UserError(
            f"{what} {name!r} is unknown: name your own function as FILE.py:function, or by its dotted path"
        )
    for folder in places():
        if folder not in sys.path:
            sys.path.append(folder)
    try:
        module = _module_of(file, name, what) if file.endswith(".py") else importlib.import_module(module_name)
    except UserError:
        raise
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise UserError(
            f"{what} {name!r} cannot be imported: {type(error).__name__}: {error}{_looked(error)}"
        ) from None
    found = getattr(module, attribute, None)
    if found is None:
        where = getattr(module, "__file__", None) or "a part of Python"
        raise UserError(
            f"{what} {name!r} is not there: {module.__name__} is {where}, which has no {attribute!r}"
            + ("" if file.endswith(".py") else f"; a file of your own is named as FILE.py:{attribute}")
        )
    if not callable(found):
        raise UserError(f"{what} {name!r} is not callable")
    return found


def _looked(error: Exception) -> str:
    if not isinstance(error, ModuleNotFoundError):
        return ""
    return f" (Python's path was looked at, and {', '.join(places())}; a file can be named as FILE.py:function)"


def _module_of(file: str, name: str, what: str) -> ModuleType:
    path = next((path for folder in places() if (path := Path(folder, file).resolve()).is_file()), None)
    if path is None:
        raise UserError(f"{what} {name!r}: there is no file {file} in {' or '.join(places())}")
    # the same module for the same file, under a name that nobody else has
    own = f"own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if own in sys.modules:
        return sys.modules[own]
    if str(path.parent) not in sys.path:  # what lies beside it can be imported
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(own, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[own] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[own]
        raise
    return module
