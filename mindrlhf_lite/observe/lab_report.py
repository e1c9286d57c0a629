"""One HTML page that compares runs: curves, settings that differ, and completions worth reading. It needs no network
and no script.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindrlhf_lite.evaluation.intervals import mean_interval
from mindrlhf_lite.files.text_file import printable, write_text
from mindrlhf_lite.observe.plots import drawable
from mindrlhf_lite.observe.run_files import accuracies
from mindrlhf_lite.observe.runs import Point, Run, incomparable, seeds_of, unhealthy
from mindrlhf_lite.observe.self_correction import RULES, SelfCorrection, find_self_correction

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
_SMOOTHING = 0.3  # weight of a new value in the moving average
_SHOWN = 3  # completions of a kind and run
_MOMENTS = ("before", "after")
_NOT_COMPARED = ("output_dir", "save", "swap_dir")  # settings that differ between any two runs


# --- curves ---


def smooth(points: Sequence[Point]) -> list[Point]:
    """Exponential moving average of the values."""
    average, result = points[0][1], []
    for step, value in points:
        average += _SMOOTHING * (value - average)
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
    groups = seeds_of(runs)
    series: dict[str, tuple[str, list[list[list[Point]]]]] = {
        name: (title, [[_drawable(run.points(key)) for run in own] for own in groups.values()])
        for name, (title, key) in CURVES.items()
    }
    series[SELF_CORRECTION[0]] = (
        SELF_CORRECTION[1],
        [[run.self_correction_points() for run in own] for own in groups.values()],
    )
    drawn = {}
    for name, (title, lines) in series.items():
        if not any(any(own) for own in lines):
            continue
        figure, axes = pyplot.subplots(figsize=(6.2, 3.6))
        for index, (run_name, own) in enumerate(zip(groups, lines, strict=True)):
            colour = COLOURS[index % len(COLOURS)]
            points = own[0]
            if len(own) > 1:
                band = mean_and_range(own)
                points = [(step, mean) for step, mean, _, _ in band]
                axes.fill_between(
                    [row[0] for row in band],
                    [row[2] for row in band],
                    [row[3] for row in band],
                    color=colour,
                    alpha=0.1,
                )
            elif len(points) >= 20:
                axes.plot(*zip(*points, strict=True), color=colour, alpha=0.25, linewidth=1)
                points = smooth(points)
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=colour,
                    linewidth=2,
                    label=f" {printable(run_name)}",
                    marker="o" if len(points) < 20 else None,
                    markersize=4,
                )
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


# --- completions worth reading ---


@dataclass(frozen=True)
class Example:
    """A completion, with what is said above it; `mark` is highlighted."""

    heading: str
    prompt: str
    completion: str
    mark: SelfCorrection | None = None


def _late(run: Run) -> list[tuple[int, dict[str, Any]]]:
    """(step, row) of the last quarter of the steps with completions."""
    steps = list(run.steps)
    return [(step, row) for step in steps[-max(1, len(steps) // 4) :] for row in run.steps[step]]


def best_and_worst(run: Run) -> tuple[list[Example], list[Example]]:
    """Of the last quarter of the steps: highest and lowest rewards, newest first, a question once."""

    def pick(order: Callable[[tuple[int, dict[str, Any]]], Any]) -> list[Example]:
        shown: dict[str, Example] = {}
        for step, row in sorted(_late(run), key=order):
            heading = (
                f"step {step}, reward {row['reward']:.3g}, {row['outcome']}, {row['tokens']} tokens, gold {row['gold']}"
            )
            shown.setdefault(row["prompt"], Example(heading, row["prompt"], row["completion"]))
            if len(shown) == _SHOWN:
                break
        return list(shown.values())

    return pick(lambda pair: (-pair[1]["reward"], -pair[0])), pick(lambda pair: (pair[1]["reward"], -pair[0]))


def most_improved(run: Run) -> list[tuple[Example, Example]]:
    """Questions that gained most, first and last answer: held-out ones between the first and the last evaluation, else
    those trained on more than once.
    """
    pairs: list[tuple[float, Example, Example]] = []
    if len(run.evaluations) > 1:
        first, last = min(run.evaluations), max(run.evaluations)
        before, after = run.evaluations[first], run.evaluations[last]
        later = {row["index"]: row for row in after}
        for row in before:
            if row["index"] in later:
                old, new = row["completions"], later[row["index"]]["completions"]
                gain = sum(c["correct"] for c in new) / len(new) - sum(c["correct"] for c in old) / len(old)
                texts = (
                    next((c["text"] for c in old if not c["correct"]), ""),
                    next((c["text"] for c in new if c["correct"]), ""),
                )
                heads = (f"before, evaluation at step {first}, gold {row['gold']}", f"after, evaluation at step {last}")
                pairs.append(
                    (gain, Example(heads[0], row["prompt"], texts[0]), Example(heads[1], row["prompt"], texts[1]))
                )
    else:
        seen: dict[str, list[tuple[int, list[dict[str, Any]]]]] = {}
        for step, rows in run.steps.items():
            for prompt in dict.fromkeys(row["prompt"] for row in rows):
                seen.setdefault(prompt, []).append((step, [row for row in rows if row["prompt"] == prompt]))
        for prompt, visits in seen.items():
            if len(visits) > 1:
                (first, old), (last, new) = visits[0], visits[-1]
                gain = sum(row["reward"] for row in new) / len(new) - sum(row["reward"] for row in old) / len(old)
                low, high = min(old, key=lambda row: row["reward"]), max(new, key=lambda row: row["reward"])
                heads = (
                    f"step {first}, reward {low['reward']:.3g}, gold {low['gold']}",
                    f"step {last}, reward {high['reward']:.3g}",
                )
                pairs.append(
                    (gain, Example(heads[0], prompt, low["completion"]), Example(heads[1], prompt, high["completion"]))
                )
    pairs = [pair for pair in sorted(pairs, key=lambda pair: -pair[0]) if pair[0] > 0]
    return [(old, new) for _, old, new in pairs[:_SHOWN]]


def self_corrections(run: Run) -> list[Example]:
    """Candidates of all steps: right answers first, newest first, a question once."""
    found = []
    for step, rows in run.steps.items():
        for row in rows:
            if (mark := find_self_correction(row["completion"])) is not None:
                found.append((row["outcome"] != "correct", -step, row, mark))
    shown: dict[str, Example] = {}
    for _, minus_step, row, mark in sorted(found, key=lambda entry: entry[:2]):
        heading = f"step {-minus_step}, {row['outcome']}, gold {row['gold']}; rule: {mark.rule}"
        shown.setdefault(row["prompt"], Example(heading, row["prompt"], row["completion"], mark))
        if len(shown) == 2 * _SHOWN:
            break
    return list(shown.values())


# --- the page ---

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 82rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
th, td { border: 1px solid #ccc; padding: .25rem .6rem; text-align: left; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(30rem, 1fr)); gap: 1rem; }
.curves svg { width: 100%; height: auto; }
figure { margin: 0; }
.warning { background: #fff3e0; border-left: 4px solid #ff7f0e; padding: .4rem .8rem; }
.run { border-left: 4px solid var(--colour); padding-left: 1rem; margin: 1.5rem 0; }
.example { margin: .6rem 0 1rem; } .example p { margin: 0; color: #555; font-size: 13px; }
pre { background: #f6f6f4; padding: .5rem .8rem; margin: .2rem 0; white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 24rem; overflow-y: auto; }
pre b { font-weight: normal; color: #777; } mark { background: #ffe58a; }
"""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _example(example: Example) -> str:
    text, mark = example.completion, example.mark
    if mark:
        before, found, behind = text[: mark.start], text[mark.start : mark.stop], text[mark.stop :]
        shown = f"{html.escape(before)}<mark>{html.escape(found)}</mark>{html.escape(behind)}"
    else:
        shown = html.escape(text)
    heading, prompt = html.escape(example.heading), html.escape(example.prompt)
    return f'<div class="example"><p>{heading}</p><pre><b>{prompt}</b>{shown}</pre></div>'


def _examples(title: str, examples: Sequence[Example], otherwise: str) -> str:
    return f"<h4>{title}</h4>" + ("".join(map(_example, examples)) or f"<p>{otherwise}</p>")


def _overview(runs: Sequence[Run]) -> str:
    rows = []
    for name, own in seeds_of(runs).items():
        if len(own) > 1:
            rows.append(_overview_of_seeds(name, own))
            continue
        (run,) = own
        before, after = (accuracies(run.summary, moment) for moment in _MOMENTS)
        last = run.metrics[-1]
        rows.append(
            (
                run.name,
                last["step"],
                f"{run.summary['seconds']:.0f} s" if "seconds" in run.summary else "not finished",
                f"{before['accuracy']:.1%}" if before else "-",
                f"{after['accuracy']:.1%} ({after['interval_95'][0]:.1%} to {after['interval_95'][1]:.1%})"
                if after
                else "-",
                f"{last['reward/mean']:.3f}" if "reward/mean" in last else "-",
                f"{last['completion/mean_tokens']:.1f}" if "completion/mean_tokens" in last else "-",
            )
        )
    return _table(
        ("run", "steps", "time", "accuracy before", "after (95 % interval)", "last mean reward", "last mean length"),
        rows,
    )


def _overview_of_seeds(name: str, runs: Sequence[Run]) -> tuple[str, ...]:
    """A row of the overview: means, and for the accuracy the range over the seeds."""

    def mean(values: list[float], form: str) -> str:
        return format(sum(values) / len(values), form) if values else "-"

    before, after = ([own for own in (accuracies(run.summary, moment) for run in runs) if own] for moment in _MOMENTS)
    shares = [own["accuracy"] for own in after]
    seconds = [run.summary["seconds"] for run in runs if "seconds" in run.summary]
    last = [run.metrics[-1] for run in runs]
    spread = ""
    if len(after) > 1:
        _, low, high = mean_interval(shares, min(own.get("num_questions", 0) for own in after))
        spread = f" (mean {low:.1%} to {high:.1%}; seeds {min(shares):.1%} to {max(shares):.1%})"
    return (
        f"{name} ({len(runs)} seeds)",
        " ".join(sorted({str(row["step"]) for row in last})),
        f"{mean(seconds, '.0f')} s" if len(seconds) == len(runs) else "not finished",
        mean([own["accuracy"] for own in before], ".1%"),
        mean(shares, ".1%") + spread,
        mean([row["reward/mean"] for row in last if "reward/mean" in row], ".3f"),
        mean([row["completion/mean_tokens"] for row in last if "completion/mean_tokens" in row], ".1f"),
    )


def _settings(runs: Sequence[Run]) -> str:
    unknown = [run.name for run in runs if not run.settings]
    known = [run for run in runs if run.settings]
    keys = sorted({key for run in known for key in run.settings})
    missing = object()
    differing = [
        key
        for key in keys
        if key.rpartition(".")[2] not in _NOT_COMPARED
        and any(run.settings.get(key, missing) != known[0].settings.get(key, missing) for run in known)
    ]
    text = (
        f"<p>Settings of {html.escape(', '.join(unknown))} are not known: not finished (no summary.json).</p>"
        if unknown
        else ""
    )
    if len(known) < 2:
        return text + "<p>One run with known settings: nothing to compare.</p>"
    if not differing:
        return text + "<p>None: all settings are equal.</p>"
    return text + _table(
        ("setting", *(run.name for run in known)),
        [(key, *(run.settings.get(key, "-") for run in known)) for key in differing],
    )


def _run_section(run: Run, colour: str) -> str:
    best, worst = best_and_worst(run)
    improved = [example for pair in most_improved(run) for example in pair]
    none_saved = "No completions were saved (rl_config.save_prompt_completions_data)."
    parts = (
        _examples("Best", best, none_saved),
        _examples("Worst", worst, none_saved),
        _examples(
            "Most improved",
            improved,
            "No question was answered twice with a gain: evaluate while training (rl_config.eval_interval), or "
            "train longer.",
        ),
        _examples("Corrects itself (candidates)", self_corrections(run), "None found."),
    )
    return f'<section class="run" style="--colour: {colour}"><h3>{html.escape(run.name)}</h3>{"".join(parts)}</section>'


def write_report(runs: Sequence[Run], folder: Path) -> Path:
    """FOLDER/report.html and a PNG a curve. Returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_text(path, page_of(runs, {name: svg for name, (_, svg) in draw_curves(runs, folder).items()}))
    return path


def page_of(runs: Sequence[Run], drawn: Mapping[str, str]) -> str:
    """The page. Args: drawn: SVG texts of the curves by name."""
    curves = "".join(f'<figure id="{name}">{svg}</figure>' for name, svg in drawn.items())
    groups = seeds_of(runs)
    firsts = [own[0] for own in groups.values()]
    sections = "".join(_run_section(run, COLOURS[index % len(COLOURS)]) for index, run in enumerate(firsts))
    title = "Lab report: " + ", ".join(groups)
    of_seeds = (
        "<p>Runs of one name are seeds: curves are their mean and their range, all else is the first's.</p>"
        if len(groups) < len(runs)
        else ""
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
{_overview(runs)}
{of_seeds}
{"".join(f'<p class="warning">{html.escape(line)}</p>' for line in [*unhealthy(runs), *incomparable(firsts)])}
<h2>Settings that differ</h2>
{_settings(firsts)}
<h2>Curves</h2>
<p>Strong lines are moving averages (a new value weighs {_SMOOTHING}), faint ones the values.
Rewards of runs with different verifier weights cannot be compared.</p>
<div class="curves">{curves}</div>
<h2>Completions</h2>
<p>Best and worst by reward, in the last quarter of the steps.
A completion is a candidate for self-correction if, inside &lt;think&gt; and with text after it, one of these
is found (words, not proof; read them):</p>
{_table(("rule", "what is looked for"), RULES.items())}
{sections}
</body></html>
"""
