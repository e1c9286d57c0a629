#!/usr/bin/env python3
"""Writes docs/config.md from mindrlhf_lite/config/sections.

Examples:
  python tools/document_config.py
  python tools/document_config.py --check      exit code 1 if it is not current
"""

import dataclasses
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mindrlhf_lite.commands.tool import run_tool, tool_parser
from mindrlhf_lite.config.load import FLAGS, known_keys, setting_types
from mindrlhf_lite.files.text_file import read_text, say, write_text


def document() -> str:
    lines = [
        "# Settings",
        "",
        "Every key of the YAML with its default, also as `--section.key=value` on the command line. Written by "
        "`tools/document_config.py`.",
    ]
    types, section = setting_types(), ""
    short = {key: flag for flag, key in FLAGS.items()}
    for key, entry in known_keys().items():
        if key.partition(".")[0] != section:
            section = key.partition(".")[0]
            lines += ["", f"## {section}", ""]
        default = entry.default_factory() if entry.default_factory is not dataclasses.MISSING else entry.default
        value = default if isinstance(default, str) else json.dumps(default)
        kind = f" ({types[key]})" if isinstance(default, list) else ""
        facts = entry.metadata["facts"]
        choices = f" ({', '.join(filter(None, facts.choices))})" if facts.choices else ""
        is_said = facts.unit.rstrip("s") in facts.help  # also where there is none
        unit = "" if is_said else f" ({facts.unit})"
        flag = f"; short: `--{short[key]}`" if key in short else ""
        lines.append(f"- `{key}={value}`{unit}{kind}: {facts.help}{choices}{flag}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    path, text = ROOT / "docs/config.md", document()
    if not args.check:
        write_text(path, text)
    elif not path.is_file() or read_text(path) != text:
        say(f"{path} is not current; run python tools/document_config.py")
        sys.exit(1)


if __name__ == "__main__":
    run_tool(main)
