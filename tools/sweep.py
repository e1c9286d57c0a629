#!/usr/bin/env python3
"""Runs a command once for every seed, and for every value of settings that are varied, one after the other; ends in one
report with intervals over seeds.

The command is one of examples/*/run_grpo.sh, or main.py: it gets --rl_config.seed, --rl_config.output_dir and the
varied settings. Runs that are there already are not made again, one that was interrupted goes on from its checkpoint: a
sweep that was stopped goes on by the same command.

Examples:
  python tools/sweep.py --seeds 0 1 2 --output output/sweep -- bash examples/quickstart/run_grpo.sh
  python tools/sweep.py --seeds 0 1 2 --vary rl_config.beta=0,0.04 --output output/beta -- \\
      bash examples/quickstart/run_grpo.sh --rl_config.max_steps=30
"""

import argparse
import itertools
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import SEED, USER_ERROR, run_tool, tool_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import read_text, say, write_text
from mindrlhf_lite.job.lock import hold_output


@dataclass(frozen=True)
class Planned:
    """One run. Example: Planned("beta=0", 1, Path("output/beta/beta_0/seed_1"), ("--rl_config.beta=0",))"""

    name: str  # of the experiment, which all its seeds share
    seed: int
    folder: Path
    settings: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        return (self.folder / "summary.json").is_file()

    def command(self, given: list[str]) -> list[str]:
        goes_on = any((self.folder / "checkpoints").glob("step_*"))
        own = (f"--rl_config.seed={self.seed}", f"--rl_config.output_dir={self.folder}")
        return [*given, *own, *self.settings, *(["--rl_config.resume_training=true"] if goes_on else [])]


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--seeds", type=SEED, nargs="+", required=True, help="one run each")
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="a setting and its values; more than once: all pairs",
    )
    parser.add_argument("--output", required=True, help="folder of the runs and of the report")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="behind --: the command of one run")
    return parser.parse_args()


def plan(seeds: list[int], vary: list[str], output: Path) -> list[Planned]:
    """Every run, experiment by experiment."""
    axes = []
    for text in vary:
        key, _, values = text.partition("=")
        if not key or not values:
            raise UserError(f"--vary {text}: a setting and its values are needed, such as rl_config.beta=0,0.04")
        axes.append([(key, value) for value in _values(values, text)])
    runs = []
    for chosen in itertools.product(*axes):
        name = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in chosen) or "run"
        settings = tuple(f"--{key}={value}" for key, value in chosen)
        folder = output / re.sub(r"[^\w.,-]", "_", name) if chosen else output
        runs += [Planned(name, seed, folder / f"seed_{seed}", settings) for seed in seeds]
    return runs


def _values(text: str, given: str) -> list[str]:
    """The values of a --vary, as the command line takes them: a list is one of them."""
    import yaml

    from mindrlhf_lite.files.strict_yaml import load_yaml

    try:
        values = load_yaml(f"[{text}]")
    except yaml.YAMLError:
        raise UserError(f"--vary {given}: the values cannot be read; write KEY=A,B, or KEY=[1,2],[3,4]") from None
    written = re.findall(r"\[[^\[\]]*\]|[^,\[\]]+", text)
    if len(written) != len(values) or len(set(written)) < len(written):
        raise UserError(
            f"--vary {given}: {len(values)} values, each once, are needed; write KEY=A,B, or KEY=[1,2],[3,4]"
        )
    return written


def check_same_sweep(output: Path, given: list[str]) -> None:
    """Raises UserError where the folder holds the runs of another command; else keeps this one's."""
    path = output / "sweep_command.json"
    if path.is_file() and read_text(path) != json.dumps(given) + "\n":
        raise UserError(f"--output {output}: it holds the runs of another command ({path}); give another folder")
    output.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(given) + "\n")


def check_settings(runs: list[Planned], given: list[str]) -> None:
    """A dry run of every experiment that is to be made, so that a mistake is met before hours are spent."""
    for each in {run.name: run for run in reversed(runs) if not run.is_done}.values():
        command = [*each.command(given), "--dry_run"]
        found = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        if found.returncode == USER_ERROR:
            raise UserError(f"{each.name}: {found.stderr.decode(errors='replace').strip()}")


def report(runs: list[Planned], output: Path) -> None:
    """The page, and a line an experiment."""
    from mindrlhf_lite.evaluation.intervals import mean_interval
    from mindrlhf_lite.observe.lab_report import write_report
    from mindrlhf_lite.observe.run_files import accuracies
    from mindrlhf_lite.observe.runs import incomparable, read_run, seeds_of

    found = [read_run(str(each.folder), each.name) for each in runs]
    page = write_report(found, output / "report")
    result = {}
    for name, own in seeds_of(found).items():
        after = [evaluation for run in own if (evaluation := accuracies(run.summary, "after"))]
        if not after:
            say(f"{name}: {len(own)} run(s), without an evaluation (rl_config.eval_dataset_file)")
            continue
        questions = min(evaluation.get("num_questions", 0) for evaluation in after)
        mean, low, high = mean_interval([evaluation["accuracy"] for evaluation in after], questions)
        result[name] = {"seeds": len(after), "accuracy": mean, "interval_95": [low, high]}
        spread = f" (95 % interval over seeds {low:.1%} to {high:.1%})" if len(after) > 1 else ""
        say(f"{name}: held-out accuracy {mean:.1%}{spread}, {len(after)} seed(s)")
    for line in incomparable([own[0] for own in seeds_of(found).values()]):
        say(f"warning: {line}")
    write_text(output / "sweep.json", json.dumps(result, indent=1) + "\n")
    say(f"wrote {page} and {output / 'sweep.json'}")


def main() -> None:
    args = parse_arguments()
    given = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not given:
        raise UserError("give the command of one run behind --, such as -- bash examples/quickstart/run_grpo.sh")
    if len(set(args.seeds)) < len(args.seeds):
        raise UserError(f"--seeds {' '.join(map(str, args.seeds))}: each once")
    output = Path(args.output).absolute()
    runs, failed = plan(args.seeds, args.vary, output), []
    hold_output(output)
    check_same_sweep(output, given)
    check_settings(runs, given)
    for number, each in enumerate(runs, 1):
        say(f"run {number} of {len(runs)}: {each.name}, seed {each.seed}: {each.folder}")
        if each.is_done:
            say("  is there already")
        elif code := subprocess.call(each.command(given)):
            failed.append(f"{each.name}, seed {each.seed}: its command ended with exit code {code}")
    if done := [each for each in runs if each.is_done]:
        report(done, output)
    if failed:
        raise UserError("\n".join([*failed, "the same command goes on with those"]))


if __name__ == "__main__":
    run_tool(main)
