"""How long every test takes, in seconds of the clock and of the processors, with all that it starts.

PYTHONPATH=tests python -m pytest -p cpu_times -n 2 --dist loadfile -m "not full"
python tests/cpu_times.py output/cpu_times       the table of tests/DURATIONS.md
"""

import json
import os
import resource
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "output/cpu_times"


def cpu_seconds() -> float:
    """Of this process, of those that it started and that have ended, and of the one that forks scripts."""
    usages = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    helpers = sys.modules.get("helpers")
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + (helpers.WARM.cpu_seconds() if helpers else 0.0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> object:
    start, cpu = time.monotonic(), cpu_seconds()
    result = yield
    row = [item.nodeid, round(time.monotonic() - start, 2), round(cpu_seconds() - cpu, 2)]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{os.environ.get('PYTEST_XDIST_WORKER', 'one')}.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    return result


def main() -> None:
    files: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for path in sorted(Path(sys.argv[1]).glob("*.jsonl")):
        for line in path.read_text().splitlines():
            name, *seconds = json.loads(line)
            own = files[name.partition("::")[0]]
            own[0] += 1
            own[1] += seconds[0]
            own[2] += sum(seconds[1:])
    for name, (count, wall, cpu) in sorted(files.items(), key=lambda item: -item[1][2]):
        print(f"| {name.removeprefix('tests/')} | {count} | {wall:.0f} | {cpu:.0f} |")
    print(f"| together | {' | '.join(f'{sum(own[n] for own in files.values()):.0f}' for n in range(3))} |")


if __name__ == "__main__":
    main()
