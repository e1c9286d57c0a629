"""Where the system starts no further process, this is said, with the limit."""

import errno
import resource

import pytest

from mindrlhf_lite.job.limits import why_no_process


@pytest.mark.parametrize(
    "error",
    [
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        RuntimeError("can't start new thread"),
        RuntimeError("Resource temporarily unavailable"),  # as MindSpore's threads say it
    ],
)
def test_a_process_too_many(error):
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    said = why_no_process(error)
    assert "no further process or thread" in said and (str(limit) in said or limit == resource.RLIM_INFINITY)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("reshard"), ValueError("x")])
def test_other_errors_are_not_taken_for_it(error):
    assert not why_no_process(error)
