"""One HTML page that compares runs: curves, settings that differ, and completions worth reading. It needs no network
and no script.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mindrlhf_lite.evaluation.intervals import mean_interval
from mindrlhf_lite.files.text_file import write_text
from mindrlhf_lite.observe.lab_curves import COLOURS, SMOOTHING, draw_curves
from mindrlhf_lite.observe.run_files import accuracies
from mindrlhf_lite.observe.runs import Run, concerning, incomparable, seeds_of, unhealthy
from mindrlhf_lite.observe.self_correction import RULES
from mindrlhf_lite.observe.worth_reading import Example, best_and_worst, most_improved, self_corrections

_MOMENTS = ("before", "after")
_NOT_COMPARED = ("output_dir", "save", "swap_dir")  # settings that differ between any two runs
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
    warnings = [*unhealthy(runs), *concerning(runs), *incomparable(firsts)]
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
{"".join(f'<p class="warning">{html.escape(line)}</p>' for line in warnings)}
<h2>Settings that differ</h2>
{_settings(firsts)}
<h2>Curves</h2>
<p>Strong lines are moving averages (a new value weighs {SMOOTHING}), faint ones the values.
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
