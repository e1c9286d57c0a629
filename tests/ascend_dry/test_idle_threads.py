"""A thread that never waits gives way to all others; one that waits keeps its place."""

import subprocess
import sys
import textwrap

from helpers import ROOT, clean_environment

CODE = f"""
    import hashlib, os, sys, threading, time
    sys.path.insert(0, {str(ROOT)!r})
    from mindrlhf_lite.ascend.idle_threads import let_spinning_threads_idle

    threads = {{}}

    def compute():
        threads["spinning"] = threading.get_native_id()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes, without Python's lock

    def work():
        threads["working"] = threading.get_native_id()
        while True:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 20_000)
            time.sleep(0.01)

    for target in (compute, work):
        threading.Thread(target=target, daemon=True).start()
    let_spinning_threads_idle()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if len(threads) == 2 and os.sched_getscheduler(threads["spinning"]) == os.SCHED_IDLE:
            break
    time.sleep(2)
    found = [os.sched_getscheduler(each) for each in (threads["spinning"], threads["working"], os.getpid())]
    print(found == [os.SCHED_IDLE, os.SCHED_OTHER, os.SCHED_OTHER], flush=True)
    os._exit(0)
"""


def test_a_thread_that_spins():
    command = [sys.executable, "-c", textwrap.dedent(CODE)]
    result = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), timeout=120)
    assert result.stdout == "True\n", result.stdout + result.stderr
