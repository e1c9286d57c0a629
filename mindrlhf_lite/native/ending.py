"""The end of a process whose work is done."""

from __future__ import annotations

import ctypes
import sys

from mindrlhf_lite.native.build import library_file
from mindrlhf_lite.native.library import isa_of_this_cpu


def end_as_done() -> None:
    """From now on, a crash ends this process with exit code 0: MindSpore's threads sometimes crash when it takes its
    cluster down (source/ending.cc). Where nothing is compiled, nothing is changed.
    """
    sys.stdout.flush()
    isa = isa_of_this_cpu()
    if isa and library_file(isa).is_file():
        ctypes.CDLL(str(library_file(isa))).native_end_as_done()
