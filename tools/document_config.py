#!/usr/bin/env python3
"""Writes docs/config.md from mindrlhf_lite/config/schema.py, and the tables of docs/migration.md and its Chinese twin
from mindrlhf_lite/config/aliases/*.yaml.

Examples:
  python tools/document_config.py
  python tools/document_config.py --check      exit code 1 if a file is not current
"""

import dataclasses
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mindrlhf_lite.commands.tool import run_tool, tool_parser
from mindrlhf_lite.config.aliases.document import key_tables
from mindrlhf_lite.config.load import FLAGS, known_keys, setting_types
from mindrlhf_lite.files.text_file import read_text, say, write_text

_MARK = "<!-- keys -->"  # what follows it is written here


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
    texts = {ROOT / "docs" / "config.md": document()}
    for language, name in (("en", "migration.md"), ("zh", "migration_CN.md")):
        path = ROOT / "docs" / name
        texts[path] = read_text(path).partition(_MARK)[0] + _MARK + "\n\n" + key_tables(language) + "\n"
    for path, text in texts.items():
        if not args.check:
            write_text(path, text)
        elif not path.is_file() or read_text(path) != text:
            say(f"{path} is not current; run python tools/document_config.py")
            sys.exit(1)


if __name__ == "__main__":
    run_tool(main)
