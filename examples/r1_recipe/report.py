#!/usr/bin/env python3
"""One page of a recipe's stages: held-out accuracy with 95 % intervals, the curves of GRPO with and without a cold
start, and what each stage writes.

Example:
  python examples/r1_recipe/report.py output/r1_recipe
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.commands.tool import run_tool, tool_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.json_file import read_json
from mindrlhf_lite.files.text_file import read_text, say, write_text

STAGES = {
    "first": "the model as it was",
    "cold": "1 cold start: supervised on worked sums",
    "grpo": "2 GRPO from 1",
    "again": "4 supervised on what 2 got right, from the model as it was",
    "student_supervised": "5 a small student, supervised on the same",
    "student": "5 and distilled from 2",
    "zero": "6 R1-Zero: GRPO without a cold start",
}
NUM_SHOWN = 3


def answers_of(folder: Path, stage: str) -> list[dict]:
    lines = read_text(folder / f"{stage}.completions.jsonl").splitlines()
    return [json.loads(line) for line in lines[:NUM_SHOWN]]


def draw_curves(folder: Path) -> None:
    from mindrlhf_lite.observe.plots import draw_panels
    from mindrlhf_lite.observe.run_files import read_metrics

    lines = {}
    for stage, label in (("grpo", "GRPO after a cold start"), ("zero", "R1-Zero")):
        rows = read_metrics(folder / stage / "metrics.jsonl")
        lines[label] = [(row["step"], 100 * row["eval/accuracy"]) for row in rows if "eval/accuracy" in row]
    draw_panels(folder / "curves.png", "step", {"held-out accuracy, %": lines})


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("folder", metavar="OUTPUT", help="of examples/r1_recipe/run.sh")
    folder = Path(parser.parse_args().folder)
    if missing := [stage for stage in STAGES if not (folder / f"{stage}.json").is_file()]:
        raise UserError(f"{folder}: no {missing[0]}.json there: let run.sh finish")
    lines = ["# R1 in miniature", "", "| stage | held-out accuracy | 95 % interval |", "|---|---|---|"]
    for stage, title in STAGES.items():
        found = read_json(folder / f"{stage}.json")
        low, high = found["interval_95"]
        lines.append(f"| {title} | {found['accuracy']:.1%} | {low:.1%} to {high:.1%} |")
    counts = {key: value for key, value in read_json(folder / "best.counts.json").items() if key != "settings"}
    lines += [
        "",
        f"Stage 3 (rejection sampling): {json.dumps(counts)}",
        "",
        "![curves](curves.png)",
        "",
    ]
    for stage, title in STAGES.items():
        lines += [f"## {title}", ""]
        for row in answers_of(folder, stage):
            lines += ["```text", f"{row['prompt']}{row['completions'][0]['text']}", "```", ""]
    draw_curves(folder)
    write_text(folder / "report.md", "\n".join(lines))
    say(*lines[:11], f"wrote {folder}/report.md")


if __name__ == "__main__":
    run_tool(main)
