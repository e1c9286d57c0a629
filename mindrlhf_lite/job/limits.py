"""What the system refuses a process, in words."""

from __future__ import annotations

import errno
import resource

_REFUSED = ("Resource temporarily unavailable", "can't start new thread")


def why_no_process(error: Exception) -> str:
    """What to say where a process or a thread could not be started; "" where the error is another one."""
    is_refused = isinstance(error, OSError) and error.errno == errno.EAGAIN
    if not is_refused and not (isinstance(error, RuntimeError) and any(text in str(error) for text in _REFUSED)):
        return ""
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    there = "" if limit == resource.RLIM_INFINITY else f"; this user may have {limit} (ulimit -u)"
    return f"the system starts no further process or thread{there}; end others, or raise the limit"
