"""A process whose work is done, and one whose is not, in which something crashes."""

import pytest
from helpers import ROOT, run_python

CRASH = """
import atexit, ctypes, sys
sys.path.insert(0, sys.argv[2])
from mindrlhf_lite.native.ending import end_as_done
print("work")
if sys.argv[1] == "done":
    end_as_done()
atexit.register(ctypes.string_at, 0)
"""


@pytest.mark.parametrize(("is_done", "code"), [("done", 0), ("not", -11)])
def test_a_crash_after_the_work_is_no_failure(tmp_path, is_done, code):
    script = tmp_path / "crash.py"
    script.write_text(CRASH)
    ended = run_python(script, is_done, ROOT)
    note = "note: a library crashed after this process's work was done\n"
    assert (ended.returncode, ended.stdout) == (code, "work\n" + note * (is_done == "done"))
