"""Whether the trackers of a run can be started."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.tracking.trackers import NAMES


def tracker_problems(config: Config) -> list[str]:
    rl, known = config.rl_config, ("tensorboard", *NAMES)
    unknown = [name for name in rl.trackers if name not in known]
    problems = [f"rl_config.trackers: {name!r}: known are {', '.join(known)}" for name in unknown]
    if rl.tracker_python:
        if shutil.which(rl.tracker_python) is None:
            problems.append(f"rl_config.tracker_python={rl.tracker_python!r}: there is no such program")
        return problems
    absent = [name for name in rl.trackers if name in NAMES and find_spec(name) is None]
    return problems + [
        f"rl_config.trackers: {name!r} is not installed: pip install 'mindrlhf_lite[{name}]', or name a Python that "
        "has it in rl_config.tracker_python"
        for name in absent
    ]
