"""Compiles the C++ operators, once a kind of processor: python -m mindrlhf_lite.native.build [--isa avx2]

A compiler is what CXX names, g++, clang++ or the one in the package ziglang. Nothing else is needed: no headers, no
library to link. Example: python -m mindrlhf_lite.native.build
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mindrlhf_lite.files.text_file import say

FOLDER = Path(__file__).resolve().parent
SOURCE, BUILT = FOLDER / "source", FOLDER / "built"
# kinds of processor by machine, best first, as compilers know them
ISAS = {"x86_64": {"avx512": "x86-64-v4", "avx2": "x86-64-v3"}, "aarch64": {"neon": "armv8-a"}}
_FLAGS = (
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-Wall",
    "-Wno-psabi",
    "-pthread",
)


def isas_of_this_machine() -> dict[str, str]:
    return ISAS.get(platform.machine(), {})


def compiler() -> list[str] | None:
    """The command of a C++ compiler; None where there is none."""
    if given := os.environ.get("CXX"):
        return given.split()
    for name in ("g++", "clang++", "c++"):
        if found := shutil.which(name):
            return [found]
    return [sys.executable, "-m", "ziglang", "c++"] if importlib.util.find_spec("ziglang") else None


def _flag_of(command: list[str], kind: str) -> str:
    if "ziglang" not in command:
        return f"-march={kind}"
    return "-mcpu=generic" if kind.startswith("arm") else f"-mcpu={kind.replace('-', '_')}"  # zig's own names


def library_file(isa: str, folder: Path = BUILT) -> Path:
    """Named after what it is made of: another version of the source is another file."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCE.iterdir()))).hexdigest()[:12]
    return folder / f"operators_{isa}_{digest}.so"


def compile_library(command: list[str], isa: str, folder: Path = BUILT) -> Path:
    """Where it is not there yet. Raises subprocess.CalledProcessError with what the compiler said."""
    target = library_file(isa, folder)
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch, "library.so")
        files = map(str, sorted(SOURCE.glob("*.cc")))
        flags = [*_FLAGS, _flag_of(command, isas_of_this_machine()[isa])]
        subprocess.run(
            [*command, *flags, "-o", str(made), *files, "-ldl"], check=True, capture_output=True, encoding="utf-8"
        )
        made.replace(target)
    for old in folder.glob(f"operators_{isa}_*.so"):
        if old != target:
            old.unlink()
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", choices=sorted(isas_of_this_machine()), help="only this kind of processor")
    args = parser.parse_args()
    command, isas = compiler(), [args.isa] if args.isa else list(isas_of_this_machine())
    if command is None or not isas:
        missing = "no C++ compiler (pip install ziglang is one)" if isas else f"none for {platform.machine()}"
        say(f"native operators: {missing}; graphs of MindSpore's operators do their work, more slowly")
        return
    try:
        with ThreadPoolExecutor(2) as pool:
            for made in pool.map(lambda isa: compile_library(command, isa), isas):
                say(f"native operators: {made.name}")
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        say(f"error: native operators: {command[0]} failed:", *said.splitlines()[-20:], file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
