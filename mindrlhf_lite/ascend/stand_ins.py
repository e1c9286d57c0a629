"""Libraries that do nothing in the place of CANN's, so that MindSpore's Ascend plugin loads on a host without CANN.

MindSpore's wheel holds the whole plugin; what it lacks is CANN. Under MS_SIMULATION_LEVEL=1 MindSpore compiles, lowers
and picks kernels for Ascend and accounts for the device's memory without computing, and of CANN it only needs functions
to be there. Which ones is read from the plugin's own files: symbols that nothing defines, and names that are looked up
at run time. One C file defines them all, and one library takes the name of every library that is missing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import write_text

SOC = "Ascend910B2"
CANN_VERSION = "8.5.0"  # one that MindSpore 2.9 accepts
NUM_DEVICES = 8
# of MindSpore's files: those that link against CANN, or open it by name
_PLUGINS = ("lib/plugin/libmindspore_ascend.so*", "lib/plugin/libmindspore_ops_ascend.so", "lib/plugin/ascend/**/*.so")
_OPENERS = ("lib/libmindspore_hardware_abstract.so", "lib/libmindspore_profiler.so")
_LOOKED_UP = re.compile(
    r"acl\w*|Hccl?[A-Z]\w*|Hcom[A-Z]\w*|rt[A-Z]\w*|Msprof\w*|mstx\w+|hal[A-Z]\w*|\w*(?:HugeMem|PTA)\w*"
)
_LIBRARY_NAME = re.compile(r"(?:[\w/.-]*/)?lib\w+\.so")
_BODIES = {  # what must not be just 0
    "aclrtGetSocName": f'return (long)"{SOC}";',
    "aclrtGetDeviceCount": f"*(unsigned*)first = {NUM_DEVICES}; return 0;",
}


def stand_ins() -> Path:
    """Their folder, made in the user's cache when it is first asked for (ten seconds).

    Raises:
        UserError: there is no compiler, or no `nm` and `strings`.
    """
    home = _mindspore_home()
    key = hashlib.sha256(Path(__file__).read_bytes() + str(home).encode())
    key.update(str((home / "lib/plugin/libmindspore_ops_ascend.so").stat().st_mtime_ns).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # MindSpore finds its way from the first "cann" in the path of what it has loaded
    folder = cache / "mindrlhf_lite" / f"stand_ins_{key.hexdigest()[:12]}" / "cann"
    if not folder.is_dir():
        missing = [tool for tool in ("gcc", "nm", "strings", "readelf") if shutil.which(tool) is None]
        if missing:
            raise UserError(f"--compile: {', '.join(missing)} not found; install gcc and binutils, or CANN")
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        _build(home, scratch)
        try:
            scratch.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(scratch)
    return folder


def environment(rank: int, num_ranks: int) -> dict[str, str]:
    """What a process needs to be rank `rank` of `num_ranks` on Ascend devices that are not there; CANN's own libraries
    where they are installed.
    """
    found = {"MS_SIMULATION_LEVEL": "1", "RANK_ID": str(rank), "RANK_SIZE": str(num_ranks), "DEVICE_ID": "0"}
    if not os.environ.get("ASCEND_HOME_PATH"):
        folder = stand_ins()
        for name, own in (("LD_LIBRARY_PATH", folder / "lib64"), ("PYTHONPATH", folder / "python")):
            found[name] = os.pathsep.join(filter(None, [str(own), os.environ.get(name, "")]))
        found["ASCEND_HOME_PATH"] = str(folder)
    return found


def _mindspore_home() -> Path:
    spec = importlib.util.find_spec("mindspore")
    if spec is None or spec.origin is None:
        raise UserError("--compile: mindspore is not installed")
    home = Path(spec.origin).parent
    if not (home / "lib/plugin/ascend").is_dir():
        raise UserError("--compile: this mindspore has no Ascend plugin (lib/plugin/ascend); its Linux wheels have")
    return home


def _lines(*command: str | Path) -> list[str]:
    return subprocess.run(
        list(map(str, command)), capture_output=True, encoding="utf-8", errors="replace", check=False
    ).stdout.splitlines()


def _build(home: Path, folder: Path) -> None:
    plugins = sorted({path for pattern in _PLUGINS for path in home.glob(pattern) if path.is_file()})
    openers = [home / name for name in _OPENERS]
    symbols = _missing_symbols(home, plugins) | _names_in([*plugins, *openers], _LOOKED_UP)
    symbols |= {f"{name}GetWorkspaceSize" for name in symbols if name.startswith("aclnn")}
    libraries = folder / "lib64"
    libraries.mkdir()
    source = folder / "stand_ins.c"
    write_text(source, _source(sorted(symbols)))
    first = libraries / "libascendcl.so"
    flags = ["-O1", "-shared", "-fPIC", "-w", "-fno-builtin", "-Wl,-soname,libascendcl.so"]
    subprocess.run(["gcc", *flags, "-o", str(first), str(source)], check=True)
    for name in sorted(_missing_libraries(home, plugins, openers) - {first.name}):
        (libraries / name).symlink_to(first.name)
    hccl = folder / "python/hccl"
    hccl.mkdir(parents=True)
    (hccl / "__init__.py").touch()
    write_text(hccl / "sys_version.py", f'__sys_version__ = "{CANN_VERSION}"\n')


def _missing_symbols(home: Path, plugins: list[Path]) -> set[str]:
    """Functions that the plugins use and nothing of MindSpore or the system defines."""
    there = [*home.glob("lib/*.so*"), *home.glob("lib/plugin/**/*.so*"), *home.glob("_c_expression*.so")]
    system = {
        line.split("=>")[1].split()[0]
        for path in (sys.executable, *map(str, home.glob("_c_expression*.so")))
        for line in _lines("ldd", path)
        if "=> /" in line
    }
    defined = {
        line.split()[-1].partition("@")[0]
        for path in map(str, (*there, *system))
        for line in _lines("nm", "-D", "--defined-only", path)
    }
    used = {
        line.split()[-1].partition("@")[0]
        for path in plugins
        for line in _lines("nm", "-D", "--undefined-only", path)
        if line.split()[-2] != "w"  # weak ones may be missing
    }
    return {name for name in used - defined if not name.startswith(("Py", "_Py", "__"))}


def _names_in(paths: list[Path], pattern: re.Pattern[str]) -> set[str]:
    return {line for path in paths for line in _lines("strings", "-n", "5", path) if pattern.fullmatch(line)}


def _missing_libraries(home: Path, plugins: list[Path], openers: list[Path]) -> set[str]:
    """Names of libraries that are linked or opened and are not MindSpore's."""
    linked = {
        line.split("[")[1].split("]")[0]
        for path in plugins
        for line in _lines("readelf", "-d", path)
        if "(NEEDED)" in line
    }
    opened = {Path(name).name for name in _names_in([*plugins, *openers], _LIBRARY_NAME)}
    own = {path.name for pattern in ("lib/**/*.so*", "*.so*") for path in home.glob(pattern)}
    of_the_system = {line.split()[0].partition(".so")[0] for line in _lines("ldconfig", "-p") if ".so" in line}
    missing = {name for name in (linked | opened) - own if name.endswith(".so")}
    return {name for name in missing if name.partition(".so")[0] not in of_the_system}


def _source(symbols: list[str]) -> str:
    lines = [
        "static long nothing(void) { return 0; }",
        f"static long (*methods[64])(void) = {{{', '.join(['nothing'] * 64)}}};",
    ]
    for number, symbol in enumerate(symbols):
        body = _BODIES.get(symbol, "return 0;")
        if "CreateOperator" in symbol:  # returns an object whose methods are called
            body = "long* object = first; object[0] = (long)methods; object[1] = object[2] = 0; return (long)first;"
        elif symbol.startswith("_ZN"):  # constructors and methods that return their object
            body = "return (long)first;"
        lines.append(f'long f{number}(void* first) __asm__("{symbol}");')
        lines.append(f"long f{number}(void* first) {{ {body} }}")
    return "\n".join(lines) + "\n"
