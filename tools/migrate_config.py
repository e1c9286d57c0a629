#!/usr/bin/env python3
"""Translates a configuration of MindRLHF, MindSpeed-RL or verl: the shortest YAML of this toolkit that means the same.

On stderr: what changed its name or number, what has no effect here and why, what has no counterpart. Exit code 2 where
something must be changed first. main.py takes such files as they are; this tool is for those who move. A configuration
of this toolkit comes out as it is. Of MindSpeed-RL's, the model file is looked for beside the file and in model/ there;
its data files are for `tools/rlhf_data.py --config`. Of verl's, a YAML or a shell script is read, whose overrides are
taken as text (nothing is run), and further ones may follow: key=value, +key=value, ~key.

Examples:
  python tools/migrate_config.py grpo_config.yaml --output ours.yaml
  python tools/migrate_config.py configs/grpo_qwen25_7b_A3.yaml --quiet > ours.yaml
  python tools/migrate_config.py run_qwen2_5_7b_npu.sh trainer.total_epochs=2 --devices 16
  python tools/migrate_config.py --table > migration.md      (what becomes of every key)
  python tools/migrate_config.py --table --language zh
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import COUNT_OR_NONE, run_tool, tool_parser
from mindrlhf_lite.config.aliases.document import LANGUAGES, key_tables
from mindrlhf_lite.config.aliases.migrate import shortest_yaml
from mindrlhf_lite.config.aliases.toolkits import read_configuration, translate
from mindrlhf_lite.config.aliases.translation import Translation
from mindrlhf_lite.config.load import ConfigError, collect
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import read_text, say, write_text


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("config", metavar="IN", nargs="?", help="what to translate: .yaml, verl's also .sh")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="further settings, with a file of verl")
    parser.add_argument("--output", metavar="OUT.yaml", help="file to write (default: the console)")
    parser.add_argument(
        "--devices", type=COUNT_OR_NONE, default=0, help="ranks, where a file gives no data_parallel degree"
    )
    parser.add_argument("--quiet", action="store_true", help="no remarks")
    parser.add_argument(
        "--table", action="store_true", help="print what becomes of every key of these toolkits, and stop"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --output")
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="of --table (default: en)")
    args = parser.parse_intermixed_args()
    if args.table:
        sys.stdout.write(key_tables(args.language) + "\n")
        return
    if not args.config:
        raise UserError("give the configuration to translate: migrate_config.py IN.yaml (--help has examples)")
    values, unread = read_configuration(args.config, args.overrides)
    if unread:
        raise UserError(f"{unread[0]}: only with a configuration of verl, and as section.key=value")
    if "handler_name" in values or "output_prefix" in values:
        raise UserError(f"{args.config}: a data file of MindSpeed-RL: python tools/rlhf_data.py --config {args.config}")
    if any(key.startswith(("model.arch.", "model.model_config.")) or "ffn_hidden_size" in key for key in values):
        raise UserError(
            f"{args.config}: a model file: it is read as it is, where a GRPO file or --model_config names it"
        )
    text = translated(args, values)
    if args.output and Path(args.output).exists() and not args.overwrite:
        raise UserError(f"--output {args.output}: it is there already; --overwrite replaces it")
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        write_text(args.output, text)
        _say(args.quiet, [f"wrote {args.output}"])
    else:
        sys.stdout.write(text)  # a file, as it is


def translated(args: argparse.Namespace, values: dict[str, Any]) -> str:
    """The YAML in our terms. Raises ConfigError where something must be changed first."""
    translation = translate(values, args.config, num_ranks=args.devices)
    if translation is None:
        _, problems = collect(values)
        if problems:
            raise ConfigError(problems)
        _say(args.quiet, [f"{args.config}: a configuration of this toolkit: nothing to do"])
        return read_text(args.config)
    _say(args.quiet, remarks(translation))
    if problems := [*translation.problems, *collect(translation.values)[1]]:
        raise ConfigError(problems)
    return f"# from {Path(args.config).name}, a configuration of {translation.toolkit}\n" + shortest_yaml(
        translation.values
    )


def remarks(translation: Translation) -> list[str]:
    """What a reader should know, line by line."""
    lists = (
        ("changed its name or number:", translation.remarks),
        ("without effect here:", translation.accepted),
        ("without a counterpart:", translation.missing),
    )
    lines = [f"a configuration of {translation.toolkit}: {translation.num_same} settings stay as they are"]
    for title, entries in lists:
        if entries:
            lines += [title, *(f"  {entry}" for entry in entries)]
    return lines


def _say(is_quiet: bool, lines: list[str]) -> None:
    if not is_quiet:
        say(*lines, file=sys.stderr)


if __name__ == "__main__":
    run_tool(main)
