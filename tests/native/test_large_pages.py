import os
import subprocess
import sys

from mindrlhf_lite.native.large_pages import large_pages

PROGRAM = """import os, sys
from mindrlhf_lite.native.large_pages import start_with_large_pages
start_with_large_pages()
print(os.environ["GLIBC_TUNABLES"], *sys.argv[1:])
"""


def test_a_program_starts_again_with_its_arguments():
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    for given, expected in (({}, "glibc.malloc.hugetlb=1"), ({"GLIBC_TUNABLES": "glibc.malloc.check=1"},) * 2):
        command = [sys.executable, "-c", PROGRAM, "--model", "a folder"]
        done = subprocess.run(command, env={**environment, **given}, capture_output=True, text=True, check=True)
        wanted = expected if isinstance(expected, str) else expected["GLIBC_TUNABLES"]
        assert done.stdout.split("\n")[0] == f"{wanted} --model a folder"
        assert large_pages(given)["GLIBC_TUNABLES"] == wanted
