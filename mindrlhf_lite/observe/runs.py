"""Output folders of runs as they are read again, and what of several can be compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.evaluation.accuracy import judged_differently, verifier_of
from mindrlhf_lite.files.json_file import read_json
from mindrlhf_lite.observe.concerns import trends
from mindrlhf_lite.observe.run_files import (
    START_FILE,
    accuracies,
    check_completion,
    check_evaluation,
    check_is_regular,
    check_start,
    check_summary,
    read_json_lines,
    read_metrics,
)
from mindrlhf_lite.observe.self_correction import find_self_correction

Point = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """The output folder of a run, finished or not."""

    name: str
    folder: Path
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]  # empty while it is not finished
    start: dict[str, Any] = field(default_factory=dict)  # what it said as it began, if it did

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration by full key, and the number of ranks."""
        known = self.summary if "config" in self.summary else self.start
        ranks = {"ranks": known["world_size"]} if "world_size" in known else {}
        return {**_flat(known.get("config", {})), **ranks}

    @property
    def eval_verifiers(self) -> set[str]:
        """Those that judged its evaluations, as far as the files say."""
        said = [result.get("verifier", "") for result in self.summary.get("accuracy", {}).values()]
        return {name for name in [*said, *map(verifier_of, self.evaluations.values())] if name}

    @cached_property
    def steps(self) -> dict[int, list[dict[str, Any]]]:
        """Rows of completions/step_N.jsonl by step."""
        return _rows_by_step(self.folder, "step", check_completion)

    @cached_property
    def evaluations(self) -> dict[int, list[dict[str, Any]]]:
        """Rows of completions/eval_N.jsonl by step; 0: before training."""
        return _rows_by_step(self.folder, "eval", check_evaluation)

    def points(self, key: str) -> list[Point]:
        points = [(float(row["step"]), float(row[key])) for row in self.metrics if key in row]
        before = accuracies(self.summary, "before")
        return [(0.0, before["accuracy"]), *points] if key == "eval/accuracy" and before else points

    def self_correction_points(self) -> list[Point]:
        return [
            (float(step), sum(find_self_correction(row["completion"]) is not None for row in rows) / len(rows))
            for step, rows in self.steps.items()
            if rows
        ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def files_by_step(completions: Path, kind: str) -> dict[int, Path]:
    """KIND_N.jsonl by N, in digits (a run writes six of them); other files are not the run's."""
    name = re.compile(rf"{kind}_([0-9]{{1,18}})\.jsonl")
    files = {path: name.fullmatch(path.name) for path in completions.glob(f"{kind}_*.jsonl")}
    return dict(sorted((int(found[1]), path) for path, found in files.items() if found))


def _rows_by_step(
    folder: Path, kind: str, check: Callable[[Any, str], dict[str, Any]]
) -> dict[int, list[dict[str, Any]]]:
    files = files_by_step(folder / "completions", kind)
    for path in files.values():
        check_is_regular(path)
    return {step: read_json_lines(path, check) for step, path in files.items()}


def read_run(path: str, name: str) -> Run:
    """Raises ValueError if there is no run, or a file of it is damaged."""
    metrics = read_metrics(Path(path) / "metrics.jsonl")
    if not metrics:
        raise UserError(f"{path}: no metrics.jsonl with at least one step there; give the output folder of a run")
    files = ((Path(path) / "summary.json", check_summary), (Path(path) / START_FILE, check_start))
    summary, start = (check(read_json(file), str(file)) if file.is_file() else {} for file, check in files)
    return Run(name, Path(path), metrics, summary, start)


def seeds_of(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by name, in order; those of one name are seeds of one experiment."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.name, []).append(run)
    return found


def names_of(paths: Sequence[str]) -> list[str]:
    """The last parts of the paths that tell them apart."""
    parts = [Path(path).resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{', '.join(paths)}: a run is given twice")


def unhealthy(runs: Sequence[Run]) -> list[str]:
    """A line for every check of a run's health that failed; of a run that is not finished, what its metrics say."""
    found = []
    for run in runs:
        failing = [row["step"] for row in run.metrics if row.get("health/failing")]
        if "health" in run.summary:
            found += [
                f"{run.name} was unhealthy from step {each['first_step']} to {each['last_step']} ({each['check']}): "
                f"{each['what']}."
                for each in run.summary["health"]
            ]
        elif failing:
            found.append(
                f"{run.name} was unhealthy in {len(failing)} step(s), the first of them {failing[0]}; health/ in its "
                "metrics.jsonl says how."
            )
    return found


def concerning(runs: Sequence[Run]) -> list[str]:
    """A line for every trend at the end of a run's metrics that a person should look at."""
    return [
        f"{run.name}, steps {each.first_step} to {each.last_step}: {each.text}."
        for run in runs
        for each in trends(run.metrics)
    ]


def incomparable(runs: Sequence[Run]) -> list[str]:
    """Why accuracies, or shares of right completions, of these runs say nothing of each other."""
    found = []
    judges = {run.name: ", ".join(sorted(run.eval_verifiers)) for run in runs if run.eval_verifiers}
    if len(set(judges.values())) > 1:
        who = "; ".join(f"{name} by {judge}" for name, judge in judges.items())
        found.append(f"Held-out accuracies were judged by different verifiers ({who}): they cannot be compared.")
    starts = [run for run in runs if 0 in run.evaluations]
    for run in starts[1:]:
        if count := judged_differently(starts[0].evaluations[0], run.evaluations[0]):
            found.append(
                f"Before training, {count} equal answers are right in one of {starts[0].name} and {run.name} and wrong "
                "in the other: their verifiers differ, whatever their names, and accuracies cannot be compared."
            )
    verifiers = {str(run.settings.get("reward_config.verifier_function", "")) for run in runs if run.settings}
    if len(verifiers) > 1:
        found.append(
            "Verifiers of the reward differ (below): rewards, and shares of right completions in training, cannot be "
            "compared."
        )
    if found:
        found.append("tools/evaluate.py --verifier NAME A.jsonl B.jsonl judges saved answers again, by one verifier.")
    return found
