"""Where the contents of idle parameters go, and how their memory is given back.

CPU: into one preallocated spill file a rank; then the operating system takes the pages (madvise), which keeps every
parameter at its address, so compiled graphs find it again. The file has no name: it is unlinked as soon as it is open,
and the kernel frees its blocks when the process ends, however it ends.
Ascend: the device's memory is freed by MindSpore's own offloading of a parameter to the host. Not run here.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from mindspore import Parameter

from mindrlhf_lite.reshard.transports import Location, read_exactly, read_region

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MADV_DONTNEED = 4
_CHUNK_BYTES = 64 << 20


class Store(Protocol):
    """Keeps the contents of parameters while their memory is given back. `save` before `release`; `load` brings all of
    it back, bit for bit.
    """

    def reserve(self, parameters: Sequence[Parameter]) -> None: ...

    def save(self, parameters: Sequence[Parameter]) -> int: ...

    def load(self, parameters: Sequence[Parameter]) -> int: ...

    def release(self, parameters: Sequence[Parameter]) -> None: ...

    def locate(self, parameter: Parameter) -> Location: ...

    def read(self, parameter: Parameter, region: tuple[slice, ...], out: np.ndarray) -> None: ...

    def close(self) -> None: ...


def give_back_pages(array: np.ndarray) -> None:
    """Returns the whole pages within the array's memory to the operating system; they read as zeros from now on."""
    first = -(-array.ctypes.data // _PAGE) * _PAGE
    last = (array.ctypes.data + array.nbytes) // _PAGE * _PAGE
    if last > first and ctypes.CDLL(None, use_errno=True).madvise(
        ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_DONTNEED
    ):
        raise OSError(ctypes.get_errno(), f"madvise: {os.strerror(ctypes.get_errno())}")


class FileStore:
    """Memory <-> file, for CPU.

    Args:
        folder: where the spill file's blocks are taken from; must be on a disk, not in memory.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._descriptor, name = tempfile.mkstemp(prefix="spill_", dir=self.folder)
        os.unlink(name)
        self._offsets: dict[int, int] = {}
        self._size = 0

    def reserve(self, parameters: Sequence[Parameter]) -> None:
        """Allocates the parameters' place on disk, so that a full disk shows now and not in the middle of a run.

        Raises:
            OSError: the disk has no room; nothing has been evicted.
        """
        needed = sum(parameter.nbytes for parameter in parameters)
        try:
            if needed:
                os.posix_fallocate(self._descriptor, self._size, needed)
        except OSError as error:
            free = shutil.disk_usage(self.folder).free / 2**30
            raise OSError(
                error.errno,
                f"no room to swap: {needed / 2**30:.2f} GiB more are needed in {self.folder}, {free:.2f} GiB are "
                "free; free some, or set rl_config.swap_dir to another disk "
                f"({error.strerror}). No weights were lost",
            ) from None
        for parameter in parameters:
            self._offsets[id(parameter)] = self._size
            self._size += parameter.nbytes

    def save(self, parameters: Sequence[Parameter]) -> int:
        """Writes the contents; returns bytes. The memory is still there.

        Raises:
            OSError: the write failed; nothing has been given back.
        """
        for parameter in parameters:
            view, offset, done = memoryview(parameter.asnumpy()).cast("B"), self._offsets[id(parameter)], 0
            while done < len(view):
                done += os.pwrite(self._descriptor, view[done : done + _CHUNK_BYTES], offset + done)
        return sum(parameter.nbytes for parameter in parameters)

    def load(self, parameters: Sequence[Parameter]) -> int:
        """Reads the contents back into the same memory; returns bytes."""
        for parameter in parameters:
            read_exactly(self._descriptor, memoryview(parameter.asnumpy()).cast("B"), self._offsets[id(parameter)])
        return sum(parameter.nbytes for parameter in parameters)

    def release(self, parameters: Sequence[Parameter]) -> None:
        for parameter in parameters:
            give_back_pages(parameter.asnumpy())
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # what was freed meanwhile but not given back (glibc)
            libc.malloc_trim(0)

    def locate(self, parameter: Parameter) -> Location:
        return Location(
            os.getpid(), tuple(parameter.shape), descriptor=self._descriptor, offset=self._offsets[id(parameter)]
        )

    def read(self, parameter: Parameter, region: tuple[slice, ...], out: np.ndarray) -> None:
        read_region(self._descriptor, self._offsets[id(parameter)], parameter.shape, region, out)

    def close(self) -> None:
        os.close(self._descriptor)


class HostStore:
    """Device <-> host memory, for Ascend: not run here. Written against Parameter._offload and _load of MindSpore
    2.9.
    """

    def reserve(self, parameters: Sequence[Parameter]) -> None:
        """The host's memory is taken when it is needed."""

    def save(self, parameters: Sequence[Parameter]) -> int:
        """Offloading moves the contents; nothing is copied before."""
        return sum(parameter.nbytes for parameter in parameters)

    def load(self, parameters: Sequence[Parameter]) -> int:
        for parameter in parameters:
            parameter._load()
        return sum(parameter.nbytes for parameter in parameters)

    def release(self, parameters: Sequence[Parameter]) -> None:
        for parameter in parameters:
            parameter._offload()

    def locate(self, parameter: Parameter) -> Location:
        raise NotImplementedError("ranks on Ascend reshard by collectives")

    def read(self, parameter: Parameter, region: tuple[slice, ...], out: np.ndarray) -> None:
        out[...] = parameter.asnumpy()[region]

    def close(self) -> None:
        """Nothing is open."""
