"""The curves of a lab report: a figure a metric, a line a run, mean and range where a name has several seeds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindrlhf_lite.files.text_file import printable
from mindrlhf_lite.observe.plots import drawable
from mindrlhf_lite.observe.runs import Point, Run, seeds_of

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
CURVES = {
    "reward": ("mean reward", "reward/mean"),
    "correct": ("share of right completions in training", "reward/outcome/correct"),
    "accuracy": ("held-out accuracy", "eval/accuracy"),
    "loss": ("loss", "loss/total"),
    "kl": ("KL to the reference (nats a token)", "loss/kl"),
    "length": ("completion length (tokens)", "completion/mean_tokens"),
}
SELF_CORRECTION = ("self_correction", "share of completions that seem to correct themselves")
SMOOTHING = 0.3  # weight of a new value in the moving average


def smooth(points: Sequence[Point]) -> list[Point]:
    """Exponential moving average of the values."""
    average, result = points[0][1], []
    for step, value in points:
        average += SMOOTHING * (value - average)
        result.append((step, average))
    return result


def mean_and_range(lines: Sequence[Sequence[Point]]) -> list[tuple[float, float, float, float]]:
    """(step, mean, lowest, highest) at the steps that all lines have."""
    values = [dict(line) for line in lines if line]
    steps = sorted(set.intersection(*map(set, values))) if values else []
    columns = [[line[step] for line in values] for step in steps]
    return [(step, sum(own) / len(own), min(own), max(own)) for step, own in zip(steps, columns, strict=True)]


def _drawable(points: Sequence[Point]) -> list[Point]:
    return [(step, drawable(value)) for step, value in points]


def draw_curves(runs: Sequence[Run], folder: Path) -> dict[str, tuple[str, str]]:
    """Writes a PNG a curve that any run has values for. Returns title and SVG text by name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.fonttype"] = "none"
    groups, drawn = seeds_of(runs), {}
    for name, (title, lines) in _series(list(groups.values())).items():
        if not any(any(own) for own in lines):
            continue
        figure, axes = pyplot.subplots(figsize=(6.2, 3.6))
        for index, (run_name, own) in enumerate(zip(groups, lines, strict=True)):
            _draw_line(axes, run_name, own, COLOURS[index % len(COLOURS)])
        axes.set_xlabel("step")
        axes.set_title(title, fontsize=11)
        axes.grid(alpha=0.3)
        for entry in axes.legend(fontsize=9).get_texts():
            entry.set_parse_math(False)  # names are no formulas
        figure.tight_layout()
        figure.savefig(folder / f"{name}.png", dpi=120)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        pyplot.close(figure)
        drawn[name] = (title, text.getvalue()[text.getvalue().index("<svg") :])
    return drawn


def _series(groups: Sequence[Sequence[Run]]) -> dict[str, tuple[str, list[list[list[Point]]]]]:
    """{curve: (title, for every group of seeds the points of every run)}."""
    series: dict[str, tuple[str, list[list[list[Point]]]]] = {
        name: (title, [[_drawable(run.points(key)) for run in own] for own in groups])
        for name, (title, key) in CURVES.items()
    }
    series[SELF_CORRECTION[0]] = (
        SELF_CORRECTION[1],
        [[run.self_correction_points() for run in own] for own in groups],
    )
    return series


def _draw_line(axes: Any, name: str, own: Sequence[list[Point]], colour: str) -> None:
    """One run, smoothed where it has many points, or the mean and the range of several seeds."""
    points = own[0]
    if len(own) > 1:
        band = mean_and_range(own)
        points = [(step, mean) for step, mean, _, _ in band]
        axes.fill_between(
            [row[0] for row in band], [row[2] for row in band], [row[3] for row in band], color=colour, alpha=0.1
        )
    elif len(points) >= 20:
        axes.plot(*zip(*points, strict=True), color=colour, alpha=0.25, linewidth=1)
        points = smooth(points)
    if points:
        axes.plot(
            *zip(*points, strict=True),
            color=colour,
            linewidth=2,
            label=f" {printable(name)}",
            marker="o" if len(points) < 20 else None,
            markersize=4,
        )
