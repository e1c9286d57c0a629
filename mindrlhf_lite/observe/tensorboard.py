"""TensorBoard's files, written by the process itself: tensorboardX's own writer has a thread, which ends with a stack
trace where the disk is full, and leaves whoever writes waiting for ever.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindrlhf_lite.files.text_file import say

_VERSION = "brain.Event:2"  # of the format


class TensorBoard:
    """One file of scalars.

    Args:
        first_step: what an earlier part of the run wrote from this step on is not shown.
        queue_size: values that wait to be written, at most; none waits after a step.
    """

    def __init__(self, folder: Path, first_step: int, queue_size: int = 10):
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._records: Any = None
        self._queue_size, self._waiting = queue_size, 0
        with self._left_out_where_it_fails(folder):
            folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
            self._records = RecordWriter(str(folder / name))
            self._add(file_version=_VERSION)
            self._add(step=first_step, session_log=SessionLog(status=SessionLog.START))
            self._records.flush()
        self.folder = folder

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing, once it could not be written."""
        from tensorboardX.summary import scalar

        if self._records is None:
            return
        with self._left_out_where_it_fails(self.folder):
            for key, value in values.items():
                self._add(step=step, summary=scalar(key, value))
            self._records.flush()

    def close(self) -> None:
        if self._records is not None:
            with contextlib.suppress(OSError):  # what was buffered is lost with a full disk, and said before
                self._records.close()
            self._records = None

    def _add(self, **values: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **values).SerializeToString())
        self._waiting += 1
        if self._waiting >= self._queue_size:
            self._records.flush()
            self._waiting = 0

    @contextlib.contextmanager
    def _left_out_where_it_fails(self, folder: Path) -> Any:
        try:
            yield
        except OSError as error:
            say(f"note: {folder}: {error.strerror or error}; TensorBoard is left out from here on")
            self.close()
