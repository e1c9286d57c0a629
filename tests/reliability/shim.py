"""Faults below the program: the shared library of faults.c, and the environment that sets it to work."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faults.c")


def built(folder):
    """The library, compiled into `folder`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = Path(folder) / "faults.so"
    if not library.is_file():
        scratch = library.with_suffix(f".{os.getpid()}")
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(scratch), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        os.replace(scratch, library)
    return library


def faults(library, folder, kind="", at=0, ops="", rank=None, log=None, ms=0):
    """Environment variables for a process whose files under `folder` are to fail."""
    found = {"LD_PRELOAD": str(library), "FAULT_FOLDER": str(folder)}
    for name, value in (("KIND", kind), ("AT", at), ("OPS", ops), ("RANK", rank), ("LOG", log), ("MS", ms)):
        if value not in ("", 0, None):
            found[f"FAULT_{name}"] = str(value)
    return found
