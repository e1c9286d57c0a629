"""Waiting for streams while this process may be stopped."""

import os
import selectors
import subprocess
import sys
import time

from helpers import ROOT

from mindrlhf_lite.files.waiting import readable


def test_what_is_there_is_told_at_once_and_nothing_after_the_time():
    reading, writing = os.pipe()
    with selectors.PollSelector() as streams:
        streams.register(reading, selectors.EVENT_READ, "mine")
        begun = time.monotonic()
        assert readable(streams, 0.7)[0] == [] and time.monotonic() - begun >= 0.7
        os.write(writing, b"x")
        assert readable(streams, 60.0)[0] == readable(streams, 0.0)[0] == ["mine"]
    os.close(reading)
    os.close(writing)


def test_a_stop_is_seen_as_long_as_it_was():
    program = (
        "import os, selectors, sys; sys.path.insert(0, sys.argv[1])\n"
        "from mindrlhf_lite.files.waiting import readable\n"
        "streams = getattr(selectors, sys.argv[2])()\n"
        "streams.register(os.pipe()[0], selectors.EVENT_READ, 0)\n"
        "print('waits', flush=True)\n"
        "print(readable(streams, 2.0)[1])\n"
    )
    for kind in ("PollSelector", "DefaultSelector"):
        run = subprocess.Popen([sys.executable, "-c", program, str(ROOT), kind], stdout=subprocess.PIPE, text=True)
        assert run.stdout.readline() == "waits\n"
        time.sleep(0.3)
        for name, seconds in (("STOP", 4.0), ("CONT", 0.0)):
            subprocess.run(["kill", f"-{name}", str(run.pid)], check=True)
            time.sleep(seconds)
        assert float(run.communicate(timeout=60)[0]) > 3.2
