#!/usr/bin/env python3
"""Over-optimisation of a reward model, from the metrics of a PPO run: the KL to where it began against the reward
model's score and against the true reward, which is the rater's own. Writes report.md, curve.csv and curve.png.

Example:
  python examples/rlhf_recipe/report.py output/rlhf_recipe
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.commands.tool import run_tool, tool_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say, write_text

EVERY = 2  # updates between the rows of report.md; curve.csv has all
RATER = "reward/examples/rlhf_recipe/rater.py:near_length/mean"
COLUMNS = {
    "updates": ("updates", "d"),
    "kl": ("KL, nats a completion", ".1f"),
    "score": ("reward model's score", ".2f"),
    "true": ("true reward", ".3f"),
    "tokens": ("tokens", ".1f"),
    "right": ("right answers", ".1%"),
}


def points_of(folder: Path) -> list[dict[str, float]]:
    """A row for every step, whose completions are written by the model after the updates of the steps before it."""
    from mindrlhf_lite.observe.run_files import read_metrics

    found = [
        {
            "updates": row["step"] - 1,
            "kl": row["reward/kl"] * row["completion/mean_tokens"],
            "score": row["reward/reward_model/mean"],
            "true": row[RATER],
            "tokens": row["completion/mean_tokens"],
            "right": row["reward/qwen_accuracy_reward/mean"],
        }
        for row in read_metrics(folder / "metrics.jsonl")
        if row["step"]
    ]
    if not found:
        raise UserError(f"{folder}: no step in metrics.jsonl there: let run.sh finish")
    return found


def draw(points: list[dict[str, float]], folder: Path) -> None:
    from mindrlhf_lite.observe.plots import draw_panels

    panels = {
        COLUMNS[name][0]: {"sampled answers": [(point["kl"], point[name]) for point in points]}
        for name in ("score", "true")
    }
    draw_panels(folder / "curve.png", COLUMNS["kl"][0], panels)


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("folder", metavar="OUTPUT", help="of examples/rlhf_recipe/run.sh")
    folder = Path(parser.parse_args().folder)
    from mindrlhf_lite.observe.run_files import read_metrics

    points = points_of(folder / "ppo")
    rows = [",".join(str(point[name]) for name in COLUMNS) for point in points]
    write_text(folder / "curve.csv", "\n".join([",".join(COLUMNS), *rows, ""]))
    draw(points, folder)
    pairs, best = read_metrics(folder / "reward/metrics.jsonl")[-1], max(points, key=lambda point: point["true"])
    lines = [
        "# SFT, a reward model, PPO",
        "",
        f"The reward model ranks {pairs['eval/accuracy']:.1%} of held-out pairs as the rater would without errors.",
        f"The true reward is highest after {best['updates']} updates: {best['true']:.3f}, at {best['kl']:.1f} nats.",
        f"After {points[-1]['updates']} updates it is {points[-1]['true']:.3f}, at {points[-1]['kl']:.1f} nats.",
        "",
        "| " + " | ".join(title for title, _ in COLUMNS.values()) + " |",
        "|---" * len(COLUMNS) + "|",
        *(
            "| " + " | ".join(format(round(point[name], 6) + 0, how) for name, (_, how) in COLUMNS.items()) + " |"
            for point in points[::EVERY]
        ),
        "",
        "![curve](curve.png)",
        "",
    ]
    write_text(folder / "report.md", "\n".join(lines))
    say(*lines[2:-3], f"wrote {folder}/report.md, curve.csv and curve.png")


if __name__ == "__main__":
    run_tool(main)
