"""PNG plots of a run's metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PLOTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "reward": ("reward", ("reward/mean", "reward/outcome/correct")),
    "loss": ("loss", ("loss/total", "loss/policy")),
    "kl": ("KL to the reference (nats a token)", ("loss/kl",)),
    "length": ("completion length (tokens)", ("completion/mean_tokens", "completion/max_tokens")),
    "held_out_loss": ("held-out loss", ("eval/loss",)),
    "pairs": ("share of pairs ranked right", ("preference/accuracy",)),
    "accuracy": ("held-out accuracy", ("eval/accuracy",)),
}


_MOST_DRAWN = 1e150  # the ticks of an axis overflow beyond


def drawable(value: float) -> float:
    """A value for a plot: one that has diverged out of all bounds is a gap, as NaN is."""
    return value if abs(value) <= _MOST_DRAWN else math.nan


def draw_panels(path: Path, xlabel: str, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> None:
    """One PNG of panels side by side. Args: panels: by the label of the vertical axis, the points of every line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, every_axes = pyplot.subplots(1, len(panels), figsize=(7 * len(panels), 4), squeeze=False)
    for axes, (label, lines) in zip(every_axes[0], panels.items(), strict=True):
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 30 else None, markersize=3)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write_plots(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """One PNG for every plot that the metrics have values for. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (label, keys) in PLOTS.items():
        series = {key: [(row["step"], drawable(row[key])) for row in rows if key in row] for key in keys}
        if lines := {key: points for key, points in series.items() if points}:
            draw_panels(folder / f"{name}.png", "step", {label: lines})
            written.append(folder / f"{name}.png")
    return written
