"""How the ranks of a job come to one key: from the environment, or by a file that the main rank leaves for a moment."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mindrlhf_lite.job.key import find_key, forget_key, given_key, leave_key


def agree_on_key(gather: Callable[[np.ndarray], list[np.ndarray]], is_main: bool, folder: Path) -> bytes:
    """The job's key, which all ranks have when this returns. Args: gather: int32 words of every rank, in order."""
    key = given_key()
    if any(gather(np.array([key is None], np.int32))):
        key = leave_key(folder) if is_main else None
        gather(np.zeros(1, np.int32))  # it is there
        key = key or find_key(folder)
        gather(np.zeros(1, np.int32))  # all have it
        if is_main:
            forget_key(folder)
    assert key is not None
    # of this job alone, also where one key serves many: what was said in another is not taken in this
    drawn = gather(np.frombuffer(secrets.token_bytes(32), np.int32))
    return hmac.digest(key, b"".join(words.tobytes() for words in drawn), "sha256")
