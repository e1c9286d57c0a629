"""The tool `python`: what it prints, and that its limits hold."""

import os
import time
from pathlib import Path

import pytest

from mindrlhf_lite.episodes.calls import find_calls
from mindrlhf_lite.episodes.environment import Action
from mindrlhf_lite.episodes.python_tool import python
from mindrlhf_lite.episodes.tools import Tool, ToolEnvironment, schema_of

NETWORK = """
import socket
try:
    socket.create_connection(("127.0.0.1", {port}), 2)
    print("connected")
except OSError:
    print("refused")
"""


def test_what_a_program_prints_is_the_answer():
    assert python("print(123*456)") == "56088"
    assert python("import sys; print(1); print(2, file=sys.stderr)") == "1\n2"
    assert python("") == ""
    said = python("x = 1\nprint(x)\n1/0")
    assert said.startswith("1\nTraceback") and said.endswith("ZeroDivisionError: division by zero")
    assert python("print(input())").endswith("EOFError: EOF when reading a line")
    assert python("print({str(i) for i in range(9)})") == python("print({str(i) for i in range(9)})")


def test_a_block_in_a_text_is_run():
    environment = ToolEnvironment([Tool("python", python, schema_of("python"))])
    step = environment.step(Action("", find_calls("I run\n```python\nprint(6*7)\n```\n", "python_block")))
    assert step.messages == [{"role": "tool", "content": "42"}]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("while True: pass", "ended by signal"),
        ("x = bytearray(1 << 31)", "MemoryError"),
        ("open('big', 'wb').write(bytes(1 << 22))", "File too large"),
        ("print('x' * 100000)", "[cut]"),
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9"),
        ("files = [open('/dev/null') for _ in range(1000)]", "Too many open files"),
    ],
)
def test_limits(program, said):
    assert said in python(program)


def test_a_program_that_sleeps_is_ended_with_what_it_started(monkeypatch):
    monkeypatch.setattr("mindrlhf_lite.episodes.python_tool.WALL_S", 1.0)
    before = time.monotonic()
    said = python("import subprocess, os\np = subprocess.Popen(['sleep', '1000'])\nprint(p.pid, flush=True)\np.wait()")
    pid, end = said.split("\n")
    assert end == "[ended after 1 s]" and time.monotonic() - before < 5
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_leaves_nothing_behind_and_has_a_folder_of_its_own():
    said = python("import os; open('here', 'w').write('x'); print(os.getcwd(), os.environ.get('PATH'))")
    folder, path = said.split()
    assert not os.path.exists(folder) and path == "None"


def test_it_has_no_network_where_the_system_can_do_that():
    import socket

    if os.system("unshare -r -n true 2>/dev/null") != 0:
        pytest.skip("this system does not let a process give up its network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert python(NETWORK.format(port=server.getsockname()[1])) == "refused"
