"""Commands that run a module of this package in another process, whatever lies in the current folder: `python -m` would
look for Python's own modules there first, and find a user's random.py or yaml.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # where the package lies
_CODE = (
    "import sys; sys.path[0] = {root!r}; import runpy; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def module_command(name: str) -> list[str]:
    """What to execute, to which its arguments are added; the name is a word of it, so that `ps` shows it. Example:
    module_command("mindrlhf_lite.rewards.verifier_process")
    """
    return [sys.executable, "-c", _CODE.format(root=str(ROOT)), name]
