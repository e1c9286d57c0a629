"""Where the contents of idle parameters go, and how their memory is given back.

FileStore, for CPU: one preallocated spill file a rank; then the operating system takes the pages (madvise), which keeps
every parameter at its address. The file has no name: it is unlinked as soon as it is open, and the kernel frees its
blocks when the process ends, however it ends.
HostStore, for Ascend: the host's memory; the device's goes back to MindSpore's pool.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint

from mindrlhf_lite.parallel.mesh import is_simulated
from mindrlhf_lite.reshard.transports import Location, is_on_host, read_exactly, read_region
from mindrlhf_lite.swap.host_copies import Bundle, HostCopies, bundles_of

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MADV_DONTNEED = 4
_CHUNK_BYTES = 64 << 20


class Store(Protocol):
    """Keeps the contents of parameters while their memory is given back.

    A parameter is resident, or it has no memory. Resident: `save` copies its contents into the store, `release` gives
    its memory back. Without memory: `load` makes it resident with what was saved, bit for bit; `materialise` makes it
    resident with zeros. `locate`, `read` and `tensor` (on the device) are of what was
    saved.
    """

    can_prefetch: bool  # whether `load` may run in a thread beside graphs

    def adopt(self, parameters: Sequence[Parameter]) -> None:
        """Before anything else is done with them."""
        ...

    def reserve(self, parameters: Sequence[Parameter]) -> None: ...

    def save(self, parameters: Sequence[Parameter]) -> int: ...

    def load(self, parameters: Sequence[Parameter]) -> int: ...

    def materialise(self, parameters: Sequence[Parameter]) -> None: ...

    def release(self, parameters: Sequence[Parameter]) -> None: ...

    def locate(self, parameter: Parameter) -> Location: ...

    def read(self, parameter: Parameter, region: tuple[slice, ...], out: np.ndarray) -> None: ...

    def tensor(self, parameter: Parameter, region: tuple[slice, ...]) -> Tensor: ...

    def close(self) -> None: ...


def _whole_pages(array: np.ndarray) -> tuple[int, int]:
    """(first, last) address of the whole pages within the array's memory; last <= first: there are none."""
    first = -(-array.ctypes.data // _PAGE) * _PAGE
    return first, (array.ctypes.data + array.nbytes) // _PAGE * _PAGE


def clear_edges(array: np.ndarray) -> None:
    """Makes zero what `give_back_pages` leaves."""
    first, last = _whole_pages(array)
    flat = array.reshape(-1).view(np.uint8)
    if last <= first:
        flat[:] = 0
        return
    flat[: first - array.ctypes.data] = 0
    flat[last - array.ctypes.data :] = 0


def give_back_pages(array: np.ndarray) -> None:
    """Returns the whole pages within the array's memory to the operating system; they read as zeros from now on."""
    first, last = _whole_pages(array)
    if last > first and ctypes.CDLL(None, use_errno=True).madvise(
        ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_DONTNEED
    ):
        raise OSError(ctypes.get_errno(), f"madvise: {os.strerror(ctypes.get_errno())}")


class FileStore:
    """Memory <-> file, for CPU.

    Args:
        folder: where the spill file's blocks are taken from; must be on a disk, not in memory.
    """

    can_prefetch = True

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._descriptor, name = tempfile.mkstemp(prefix="spill_", dir=self.folder)
        os.unlink(name)
        self._offsets: dict[int, int] = {}
        self._size = 0

    def adopt(self, parameters: Sequence[Parameter]) -> None:
        """They are in the memory that they stay in."""

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

    def materialise(self, parameters: Sequence[Parameter]) -> None:
        """Pages that were given back are zeros when they are touched; what lies beside them on a page is made zero."""
        for parameter in parameters:
            clear_edges(parameter.asnumpy())

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

    def tensor(self, parameter: Parameter, region: tuple[slice, ...]) -> Tensor:
        values = np.empty(_extents(region), ms.dtype_to_nptype(parameter.dtype))
        self.read(parameter, region, values)
        return Tensor.from_numpy(values)

    def close(self) -> None:
        os.close(self._descriptor)


def move_to_device(parameters: Sequence[Parameter]) -> None:
    """What a graph moves there when it first needs it is not let go with the storage."""
    for parameter in parameters if not is_on_host() else ():
        parameter.mul_(1.0)


class HostStore:
    """Device <-> host memory, for Ascend. A parameter's storage is let go and taken anew, at another address as a rule:
    the parameter stays the same object, and compiled graphs look up where its storage is. The same code runs on CPU,
    where its tests show that; on Ascend it was compiled, not run here.
    """

    can_prefetch = False  # copies to the device come from the thread that runs the graphs

    def __init__(self, copies: HostCopies | None = None) -> None:
        self._copies = copies or HostCopies()
        self._places: dict[int, tuple[Bundle, int]] = {}  # of a parameter: its bundle, its number there

    def adopt(self, parameters: Sequence[Parameter]) -> None:
        move_to_device(parameters)

    def reserve(self, parameters: Sequence[Parameter]) -> None:
        """The host's memory of what will be saved, and loaded, together."""
        for chosen in bundles_of(parameters):
            bundle = Bundle.of(chosen, self._copies)
            self._places.update({id(each): (bundle, index) for index, each in enumerate(chosen)})

    def _bundles(self, parameters: Sequence[Parameter]) -> list[Bundle]:
        found = (self._places[id(each)][0] for each in parameters)
        return list({id(bundle): bundle for bundle in found}.values())

    def save(self, parameters: Sequence[Parameter]) -> int:
        """Copies the contents to the host; returns bytes. The device's memory is still there."""
        for bundle in self._bundles(parameters) if not is_simulated() else ():
            bundle.save(self._copies)
        self._copies.finish()
        return sum(parameter.nbytes for parameter in parameters)

    def materialise(self, parameters: Sequence[Parameter]) -> None:
        for parameter in parameters:
            parameter.untyped_storage().resize_(parameter.nbytes)
            if is_on_host():  # which lacks the operator
                parameter.asnumpy()[...] = 0
            else:
                parameter.zero_()

    def load(self, parameters: Sequence[Parameter]) -> int:
        for bundle in self._bundles(parameters):
            for parameter in bundle.parameters:
                parameter.untyped_storage().resize_(parameter.nbytes)
            bundle.load(self._copies)
        self._copies.finish()
        return sum(parameter.nbytes for parameter in parameters)

    def release(self, parameters: Sequence[Parameter]) -> None:
        if not is_on_host():
            ms.runtime.synchronize()  # whoever reads or writes it has done so
        for parameter in parameters:
            if is_on_host():
                parameter.asnumpy()  # waits, too
            parameter.untyped_storage().resize_(0)

    def _contents(self, parameter: Parameter) -> np.ndarray:
        bundle, index = self._places[id(parameter)]
        return bundle.contents(index)

    def locate(self, parameter: Parameter) -> Location:
        contents = self._contents(parameter)
        return Location(os.getpid(), contents.shape, address=contents.ctypes.data)

    def read(self, parameter: Parameter, region: tuple[slice, ...], out: np.ndarray) -> None:
        out[...] = self._contents(parameter)[region]

    def tensor(self, parameter: Parameter, region: tuple[slice, ...]) -> Tensor:
        """Whole rows are copied, straight out of the host's memory, and cut on the device."""
        rows = self._contents(parameter)[region[:1]]
        found = mint.empty(rows.shape, dtype=parameter.dtype)
        self._copies.start(found, Tensor.from_numpy(rows))
        return found[(slice(None), *region[1:])] if rows.shape[1:] != _extents(region[1:]) else found

    def close(self) -> None:
        """Nothing is open."""


def _extents(region: Sequence[slice]) -> tuple[int, ...]:
    return tuple(part.stop - part.start for part in region)
