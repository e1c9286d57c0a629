#!/usr/bin/env python3
"""Writes docs/config.md from mindrlhf_lite/config/schema.py.

Examples:
  python tools/document_config.py
  python tools/document_config.py --check      exit code 1 if the file is not current
"""

import dataclasses
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mindrlhf_lite.cli import run_tool, tool_parser
from mindrlhf_lite.config.load import FLAGS, known_keys, setting_types


def document() -> str:
    lines = [
        "# Settings",
        "",
        "Every key of the YAML, also as `--section.key=value` on the command line. Written by "
        "`tools/document_config.py`.",
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    types = setting_types()
    short = {key: flag for flag, key in FLAGS.items()}
    for key, entry in known_keys().items():
        default = entry.default_factory() if entry.default_factory is not dataclasses.MISSING else entry.default
        kind = (
            getattr(types[key], "__name__", str(types[key]))
            if not str(types[key]).startswith("list")
            else str(types[key])
        )
        choices = f" ({', '.join(filter(None, entry.metadata['choices']))})" if entry.metadata["choices"] else ""
        flag = f"; short: `--{short[key]}`" if key in short else ""
        lines.append(f"| `{key}` | {kind} | `{default!r}` | {entry.metadata['help']}{choices}{flag} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    path, text = ROOT / "docs" / "config.md", document()
    if not args.check:
        path.write_text(text)
    elif not path.is_file() or path.read_text() != text:
        print(f"{path} is not current; run python tools/document_config.py")
        sys.exit(1)


if __name__ == "__main__":
    run_tool(main)
