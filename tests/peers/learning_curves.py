"""Held-out accuracy by step of the quickstart, here and in TRL, over seeds: one picture and a table a recipe.

    PYTHONPATH=. python tests/peers/learning_curves.py --picture docs/images/learning.png \
        --recipe grpo 'runs/ours_grpo_[0-9]' 'runs/trl_grpo_*.json' \
        --recipe dapo 'runs/ours_dapo_[0-9]' 'runs/trl_dapo_*.json'

Runs here are output folders with metrics.jsonl; TRL's are what tests/peers/trl_quickstart.py wrote. Bands are 95 %
intervals of the mean over seeds (Student's t), and so are those of the difference (Welch's t), which say how large a
difference the seeds leave possible. Exit code 1 if a difference's interval leaves zero out at some evaluation.
"""

import argparse
import glob
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import stats

Run = tuple[dict[int, float], list[float]]  # accuracy by step, seconds of every step


def run_here(folder: str) -> Run:
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    accuracy = {row["step"]: row["eval/accuracy"] for row in rows if "eval/accuracy" in row}
    return accuracy, [row["time_s/step"] for row in rows if row["step"]]


def run_of_trl(path: str) -> Run:
    found = json.loads(Path(path).read_text())
    return {int(step): value for step, value in found["accuracy"].items()}, found["seconds"]


def band(values: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high) of one value a seed."""
    mean = float(values.mean())
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """(first mean - second mean, low, high) of one value a seed each, by Welch's t."""
    found = stats.ttest_ind(first, second, equal_var=False)
    low, high = found.confidence_interval(0.95)
    return float(first.mean() - second.mean()), float(low), float(high)


def until(run: Run, wanted: float) -> tuple[int, float] | None:
    """(steps, seconds of steps) until an evaluation reached `wanted`."""
    accuracy, seconds = run
    reached = [step for step, value in sorted(accuracy.items()) if value >= wanted]
    return (reached[0], sum(seconds[: reached[0]])) if reached else None


@dataclass
class Curves:
    """One recipe: runs by toolkit, steps that all of them have, and bands (mean, low, high) by toolkit and step."""

    recipe: str
    runs: dict[str, list[Run]]
    steps: list[int] = field(init=False)
    bands: dict[str, list[tuple[float, float, float]]] = field(init=False)
    differences: list[tuple[float, float, float]] = field(init=False)  # ours - theirs

    def __post_init__(self) -> None:
        self.steps = sorted(set.intersection(*(set(accuracy) for own in self.runs.values() for accuracy, _ in own)))
        self.bands = {
            name: [band(np.array([accuracy[step] for accuracy, _ in own])) for step in self.steps]
            for name, own in self.runs.items()
        }
        self.differences = [
            difference(*(np.array([accuracy[step] for accuracy, _ in own]) for own in self.runs.values()))
            for step in self.steps
        ]

    def say(self, wanted: float) -> int:
        """Prints the table. Returns at how many steps the difference's interval leaves zero out."""
        print(
            f"### {self.recipe}\n| step | "
            + " | ".join(f"{name} ({len(own)} seeds)" for name, own in self.runs.items())
            + " | difference"
        )
        print("|---|---|---|---|")
        apart = 0
        for step, ours, theirs, between in zip(self.steps, *self.bands.values(), self.differences, strict=True):
            apart += not between[1] <= 0 <= between[2]
            cells = [f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f})" for mean, low, high in (ours, theirs)]
            mean, low, high = (100 * value for value in between)
            print(f"| {step} | {cells[0]} | {cells[1]} | {mean:+.1f} ({low:+.1f} to {high:+.1f}) |")
        for name, own in self.runs.items():
            reached = [until(run, wanted) for run in own]
            steps, seconds = ([each and round(each[i]) for each in reached] for i in (0, 1))
            print(f"{name}: {wanted:.0%} in {steps} steps, {seconds} s")
        print(f"the difference's interval leaves zero out at {apart} of {len(self.steps)} evaluations")
        return apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipe",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "OURS", "TRL"),
        help="for the title; pattern of output folders; pattern of JSON files",
    )
    parser.add_argument("--picture", required=True)
    parser.add_argument("--wanted", type=float, default=0.8, help="accuracy to reach (default: 0.8)")
    args = parser.parse_args()
    curves = []
    for recipe, ours, theirs in args.recipe:
        runs = {
            "mindrlhf_lite": [run_here(folder) for folder in sorted(glob.glob(ours)) if Path(folder).is_dir()],
            "TRL 1.16": [run_of_trl(path) for path in sorted(glob.glob(theirs))],
        }
        if min(map(len, runs.values())) < 2:
            sys.exit(f"error: {recipe}: { ({name: len(own) for name, own in runs.items()}) } runs found; 2 are needed")
        curves.append(Curves(recipe, runs))
    draw(curves, args.picture)
    sys.exit(1 if sum(each.say(args.wanted) for each in curves) else 0)


def draw(curves: list[Curves], picture: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(5 * len(curves), 3.8), sharey=True, squeeze=False)
    for axes, each in zip(panels[0], curves, strict=True):
        for (name, own), colour in zip(each.bands.items(), ("#1f5fa8", "#c8641e"), strict=True):
            mean, low, high = np.array(own).T * 100
            axes.plot(each.steps, mean, color=colour, label=f"{name}, {len(each.runs[name])} seeds")
            axes.fill_between(each.steps, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.set(xlabel="step", ylim=(0, 100), title=each.recipe)
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("held-out accuracy, %")
    panels[0][-1].legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
